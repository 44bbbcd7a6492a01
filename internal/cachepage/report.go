package cachepage

import (
	"time"

	"github.com/meshlite-go/meshlite/interceptors/cache"
)

// maxIndex caps the answers that the page lists of each cache: those with the most hits.
const maxIndex = 50

// Page is what there is of all of them now.
func (c *Caches) Page() Page {
	page := Page{}
	for _, one := range c.all.Named() {
		page.Caches = append(page.Caches, report(one.Name, one.Value))
	}
	return page
}

func report(name string, c *cache.Cache) Report {
	r := Report{Name: name, Stats: c.Stats(), Methods: []Method{}, Index: []Entry{}}
	for _, m := range c.Methods() {
		r.Methods = append(r.Methods, reportMethod(m))
	}
	for _, k := range c.Index(maxIndex) {
		r.Index = append(r.Index, Entry{
			Method: k.Method, ID: k.ID, Code: k.Code.String(), Bytes: k.Bytes,
			AgeSeconds: seconds(k.Age), LeftSeconds: seconds(k.Left), ETag: k.ETag,
		})
	}
	return r
}

func reportMethod(m cache.MethodStats) Method {
	r := Method{
		Method: m.Method, Entries: m.Entries, Bytes: m.Bytes, Counts: m.Counts,
		LastMinute: m.LastMinute, Last5Minutes: m.Last5Minutes, Last15Minutes: m.Last15Minutes,
		Shadow: []Shadow{},
	}
	for _, s := range m.Shadow {
		r.Shadow = append(r.Shadow, Shadow{seconds(s.UpTo), s.Compared, s.Changed})
	}
	return r
}

// seconds are for JSON, down to the millisecond.
func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }
