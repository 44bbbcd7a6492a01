package cachecontrol_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	. "github.com/meshlite-go/meshlite/interceptors/cache/cachecontrol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	type times = map[Directive]time.Duration
	none := time.Duration(0)
	forever := (1 << 31) * time.Second
	const timed = MaxAge | SharedMaxAge | MinFresh | MaxStale | StaleWhileRevalidate | StaleIfError
	for text, want := range map[string]struct {
		said  Directive
		times times
	}{
		"":                                       {},
		"no-store":                               {NoStore, nil},
		" No-Cache , ONLY-IF-CACHED":             {NoCache | OnlyIfCached, nil},
		"max-age=60":                             {MaxAge, times{MaxAge: time.Minute}},
		`max-age="60"`:                           {MaxAge, times{MaxAge: time.Minute}},
		"max-age=60|max-age=5":                   {MaxAge, times{MaxAge: 5 * time.Second}},
		"min-fresh=5, min-fresh=60":              {MinFresh, times{MinFresh: time.Minute}},
		"max-age":                                {MaxAge, times{MaxAge: none}},
		"max-age=-1":                             {MaxAge, times{MaxAge: none}},
		"max-age=1.5, s-maxage=abc":              {MaxAge | SharedMaxAge, times{MaxAge: none, SharedMaxAge: none}},
		"max-age=99999999999999999999":           {MaxAge, times{MaxAge: forever}},
		"max-age=2147483649":                     {MaxAge, times{MaxAge: forever}},
		"max-stale":                              {MaxStale, times{MaxStale: forever}},
		"max-stale=3":                            {MaxStale, times{MaxStale: 3 * time.Second}},
		`private="x, no-store", must-revalidate`: {Private | MustRevalidate, nil},
		"public, proxy-revalidate":               {Public | MustRevalidate | ProxyRevalidate, nil},
		`ext="a\", no-store", no-cache="set-cookie"`: {NoCache, nil},
		"stale-while-revalidate=1,stale-if-error=2": {StaleWhileRevalidate | StaleIfError,
			times{StaleWhileRevalidate: time.Second, StaleIfError: 2 * time.Second}},
		"no-transform, immutable, , =, max_age=3": {},
	} {
		d := Parse(strings.Split(text, "|"))
		for bit := NoStore; bit <= ProxyRevalidate; bit <<= 1 {
			if d.Has(bit) != (want.said&bit != 0) {
				t.Errorf("%q: Has(%b) is %v", text, bit, d.Has(bit))
			}
			seconds, said := d.Seconds(bit)
			if said != (d.Has(bit) && bit&timed != 0) || seconds != want.times[bit] {
				t.Errorf("%q: Seconds(%b) is %v, %v; want %v", text, bit, seconds, said, want.times[bit])
			}
		}
	}
}

func TestParseSeconds(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "20": 20 * time.Second, " 20 , 5": 20 * time.Second, "2147483648": 1 << 31 * time.Second, "99999999999999999999": 1 << 31 * time.Second,
		"": -1, "-1": -1, "1.5": -1, "x, 5": -1,
	} {
		got, ok := ParseSeconds(text)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
}

func TestHasAndAny(t *testing.T) {
	d := Parse([]string{"no-store"})
	if d.Has(NoStore|NoCache) || !d.Any(NoStore|NoCache) || d.Any(NoCache) {
		t.Errorf("%+v", d)
	}
}

// X10 for this parser: nothing panics, no time is negative, and what was said more often
// is said all the same.
func FuzzParse(f *testing.F) {
	f.Add("max-age=60, no-cache", "private=\"a,b\\\"\"")
	f.Add("max-stale", "=,=,\"")
	f.Fuzz(func(t *testing.T, a, b string) {
		one, both := Parse([]string{a}), Parse([]string{a, b})
		for bit := NoStore; bit <= ProxyRevalidate; bit <<= 1 {
			if one.Has(bit) && !both.Has(bit) {
				t.Errorf("%q, %q: the second value unsays %b", a, b, bit)
			}
			if seconds, _ := both.Seconds(bit); seconds < 0 || seconds > 1<<31*time.Second {
				t.Errorf("%q, %q: %v", a, b, seconds)
			}
		}
	})
}

func Example() {
	said := Parse([]string{"max-age=60, must-revalidate"})
	age, limited := said.Seconds(MaxAge)
	fmt.Println(age, limited, said.Has(MustRevalidate), said.Has(NoStore))
	// Output: 1m0s true true false
}
