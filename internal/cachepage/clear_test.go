package cachepage_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/internal/cachepage"
)

// clearCaches asks to clear, and gives what is said as JSON.
func clearCaches(t *testing.T, caches *cachepage.Caches, query string) (string, error) {
	t.Helper()
	values, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	done, err := caches.Clear(t.Context(), values)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(done)
	if err != nil {
		t.Fatal(err)
	}
	return string(text), nil
}

func TestCachesAreCleared(t *testing.T) {
	const target = "consul:///catalog"
	for _, test := range []struct {
		values string
		calls  int64 // that go through afterwards, of two
		answer string
	}{
		{"all=true", 2, `{"caches":[{"name":"runtime","entries":1},{"name":"consul:///catalog","entries":1}]}`},
		{"method=" + url.QueryEscape(getSweet), 2, `{"caches":[{"name":"runtime","entries":1},{"name":"consul:///catalog","entries":1}]}`},
		{"all=true&cache=runtime", 1, `{"caches":[{"name":"runtime","entries":1}]}`},
		{"all=true&cache=" + url.QueryEscape(target), 1, `{"caches":[{"name":"consul:///catalog","entries":1}]}`},
		{"method=a.B%2FC&cache=runtime", 0, `{"caches":[{"name":"runtime","entries":0,"unknown_methods":["a.B/C"]}]}`},
		{"tag=nobody", 0, `{"caches":[{"name":"runtime"},{"name":"consul:///catalog"}]}`},
		{"method=a.B%2FC&method=" + url.QueryEscape(getSweet) + "&tag=nobody", 2, `{"caches":[{"name":"runtime","unknown_methods":["a.B/C"]},{"name":"consul:///catalog","unknown_methods":["a.B/C"]}]}`},
	} {
		t.Run(test.values, func(t *testing.T) {
			own, given := newCache(t), newCache(t)
			caches := cachepage.New(own)
			caches.Add(given, target)
			one, other := openShop(t, own), openShop(t, given)
			one.get(t, "x")
			other.get(t, "x")
			if text, err := clearCaches(t, caches, test.values); err != nil || text != test.answer {
				t.Errorf("%s (%v), want %s", text, err, test.answer)
			}
			one.get(t, "x")
			other.get(t, "x")
			if calls := one.calls.Load() + other.calls.Load() - 2; calls != test.calls {
				t.Errorf("%d calls went through, want %d", calls, test.calls)
			}
		})
	}
}

// away is a store that fails.
type away struct{}

func (away) Load(context.Context, string, []string) ([]byte, time.Duration, string, error) {
	return nil, 0, "", nil
}
func (away) Save(context.Context, string, []byte, time.Duration) error { return nil }
func (away) Invalidate(context.Context, []string) error                { return errors.New("redis is away") }
func (away) Subscribe(func([]string)) func()                           { return func() {} }

func TestClearingReportsAStoreThatFails(t *testing.T) {
	caches := cachepage.New(newCache(t))
	caches.Add(newCache(t, cache.WithStore(away{})), "consul:///catalog")
	text, err := clearCaches(t, caches, "all=true")
	if err != nil || strings.Count(text, "redis is away") != 1 || !strings.Contains(text, `{"name":"runtime","entries":0}`) {
		t.Errorf("%s (%v)", text, err)
	}
}

func TestClearingSaysWhatIsWrong(t *testing.T) {
	caches := cachepage.New(newCache(t))
	for values, want := range map[string]string{
		"":                         "nothing says what to clear: write method, tag or all=true",
		"cache=runtime":            "nothing says what to clear",
		"all=false":                `all ["false"]: write true`,
		"all=true&all=true":        "all [",
		"all=true&tag=a":           "all together with method or tag",
		"tag=":                     "tag is empty",
		"method=&all=true":         "method is empty",
		"method=GetSweet":          `method "GetSweet": write package.Service/Method`,
		"method=/a.B/C":            `method "/a.B/C"`,
		"method=a.B/C/":            `method "a.B/C/"`,
		"methods=a.B/C":            `unknown value "methods": write method, tag, all or cache`,
		"all=true&cache=catalog":   `cache "catalog" is not there: it has ["runtime"]`,
		"all=true&cache=a&cache=b": `cache "a" is not there`,
	} {
		if text, err := clearCaches(t, caches, values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %s (%v), want %s", values, text, err, want)
		}
	}
	if n := caches.Page().Caches[0].Invalidations; n != 0 {
		t.Errorf("%d invalidations, want none", n)
	}
}
