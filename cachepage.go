package meshlite

import (
	"time"

	"github.com/meshlite-go/meshlite/interceptors/cache"
)

// maxIndex caps the answers that the page lists of each cache: those that are asked for
// most.
const maxIndex = 50

// cachePage is what /debug/meshlite tells of caches. `meshlite cache stats` reads it, and
// its help says what the fields are.
type cachePage struct {
	Caches []cacheReport `json:"caches"`
}

type cacheReport struct {
	Name     string `json:"name"`
	Entries  int    `json:"entries"`
	Bytes    uint64 `json:"bytes"`
	MaxBytes uint64 `json:"max_bytes"`
	cacheCounts
	Invalidations uint64        `json:"invalidations"`
	StoreHits     uint64        `json:"store_hits"`
	StoreErrors   uint64        `json:"store_errors"`
	StoreLosses   uint64        `json:"store_losses"`
	Methods       []cacheMethod `json:"methods"`
	Index         []cacheEntry  `json:"index"`
}

// cacheCounts has the fields of [cache.Counts], as all of these have those of the cache.
type cacheCounts struct {
	Hits              uint64 `json:"hits"`
	Misses            uint64 `json:"misses"`
	Coalesced         uint64 `json:"coalesced"`
	Stale             uint64 `json:"stale"`
	Bypassed          uint64 `json:"bypassed"`
	ShadowHits        uint64 `json:"shadow_hits"`
	ShadowStale       uint64 `json:"shadow_stale"`
	Stored            uint64 `json:"stored"`
	Refreshed         uint64 `json:"refreshed"`
	RefreshesFailed   uint64 `json:"refreshes_failed"`
	IgnoredDirectives uint64 `json:"ignored_directives"`
}

type cacheMethod struct {
	Method  string `json:"method"`
	Entries int64  `json:"entries"`
	Bytes   int64  `json:"bytes"`
	cacheCounts
	LastMinute    cacheRate     `json:"last_minute"`
	Last5Minutes  cacheRate     `json:"last_5_minutes"`
	Last15Minutes cacheRate     `json:"last_15_minutes"`
	Shadow        []cacheShadow `json:"shadow"`
}

type cacheRate struct {
	Served uint64 `json:"served"`
	Calls  uint64 `json:"calls"`
}

type cacheShadow struct {
	UpToSeconds float64 `json:"up_to_seconds"`
	Compared    uint64  `json:"compared"`
	Changed     uint64  `json:"changed"`
}

type cacheEntry struct {
	Method      string  `json:"method"`
	ID          string  `json:"id"`
	Code        string  `json:"code"`
	Bytes       uint32  `json:"bytes"`
	AgeSeconds  float64 `json:"age_seconds"`
	LeftSeconds float64 `json:"left_seconds"`
	ETag        string  `json:"etag"`
}

func (c *caches) page() cachePage {
	page := cachePage{}
	for _, one := range c.all() {
		page.Caches = append(page.Caches, one.report())
	}
	return page
}

func (c namedCache) report() cacheReport {
	s := c.Stats()
	r := cacheReport{
		Name: c.name, Entries: s.Entries, Bytes: s.Bytes, MaxBytes: s.MaxBytes, cacheCounts: cacheCounts(s.Counts),
		Invalidations: s.Invalidations, StoreHits: s.StoreHits, StoreErrors: s.StoreErrors, StoreLosses: s.StoreLosses,
		Methods: []cacheMethod{}, Index: []cacheEntry{},
	}
	for _, m := range c.Methods() {
		r.Methods = append(r.Methods, reportMethod(m))
	}
	for _, k := range c.Index(maxIndex) {
		r.Index = append(r.Index, cacheEntry{
			Method: k.Method, ID: k.ID, Code: k.Code.String(), Bytes: k.Bytes,
			AgeSeconds: seconds(k.Age), LeftSeconds: seconds(k.Left), ETag: k.ETag,
		})
	}
	return r
}

func reportMethod(m cache.MethodStats) cacheMethod {
	r := cacheMethod{
		Method: m.Method, Entries: m.Entries, Bytes: m.Bytes, cacheCounts: cacheCounts(m.Counts),
		LastMinute: cacheRate(m.LastMinute), Last5Minutes: cacheRate(m.Last5Minutes), Last15Minutes: cacheRate(m.Last15Minutes),
		Shadow: []cacheShadow{},
	}
	for _, s := range m.Shadow {
		r.Shadow = append(r.Shadow, cacheShadow{seconds(s.UpTo), s.Compared, s.Changed})
	}
	return r
}

// seconds are for JSON, down to the millisecond.
func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }
