package meshlite_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/interceptors/cache"
)

const getSweet = "sweetshop.catalog.v1.CatalogService/GetSweet"

type toldCache struct {
	Name                  string
	Entries, Hits, Misses int
	Bytes                 int
	MaxBytes              int `json:"max_bytes"`
	Invalidations         int
	Methods               []struct {
		Method         string
		Hits, Misses   int
		Entries, Bytes int
		LastMinute     struct{ Served, Calls int } `json:"last_minute"`
	}
	Index []struct {
		Method, ID, Code string
		Bytes            int
		Age              float64 `json:"age_seconds"`
		Left             float64 `json:"left_seconds"`
	}
}

// adminPage is that of a runtime.
func adminPage(t *testing.T, r *meshlite.Runtime) http.Handler {
	t.Helper()
	handler, err := r.Handler(false)
	if err != nil {
		t.Fatal(err)
	}
	return handler
}

// tellCaches reads what the page tells of caches.
func tellCaches(t *testing.T, page http.Handler) []toldCache {
	t.Helper()
	answer := httptest.NewRecorder()
	page.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/debug/meshlite", nil))
	var told struct{ Cache struct{ Caches []toldCache } }
	if err := json.Unmarshal(answer.Body.Bytes(), &told); err != nil {
		t.Fatalf("%v in %s", err, answer.Body)
	}
	return told.Cache.Caches
}

func namesOf(told []toldCache) []string {
	var names []string
	for _, c := range told {
		names = append(names, c.Name)
	}
	return names
}

// clearCaches asks the page to clear, and gives what it says.
func clearCaches(t *testing.T, page http.Handler, values string) (code int, text string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/debug/meshlite/cache/clear", strings.NewReader(values))
	r.Header.Set("Meshlite-Action", "cache/clear")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer := httptest.NewRecorder()
	page.ServeHTTP(answer, r)
	return answer.Code, answer.Body.String()
}

func newCache(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.New(cache.WithIdentityMetadata("customer-id"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestTheAdminPageTellsOfAllCaches(t *testing.T) {
	m := newMesh(t)
	m.serve(&shop{name: "a"})
	given := newCache(t)
	own, _ := m.client("consul:///catalog")
	other, _ := m.client("consul:///catalog?dc=dc1", meshlite.WithCache(given))
	m.client("consul:///catalog", meshlite.WithCache(given)) // told of once
	for _, id := range []string{"x", "x", "y"} {
		get(t, own, id)
	}
	get(t, other, "x")
	page := adminPage(t, m.runtime)
	told := tellCaches(t, page)
	if names := namesOf(told); !slices.Equal(names, []string{"runtime", "consul:///catalog?dc=dc1"}) {
		t.Fatalf("it tells of %q", names)
	}
	c := told[0]
	if c.Entries != 2 || c.Hits != 1 || c.Misses != 2 || c.Bytes == 0 || c.MaxBytes == 0 || len(c.Methods) != 1 || len(c.Index) != 2 {
		t.Fatalf("of the runtime's it tells %+v", c)
	}
	if m := c.Methods[0]; m.Method != getSweet || m.Hits != 1 || m.Misses != 2 || m.Entries != 2 || m.LastMinute.Served != 1 || m.LastMinute.Calls != 3 {
		t.Errorf("of the method it tells %+v", m)
	}
	if e := c.Index[0]; e.Method != getSweet || e.ID == "" || e.Code != "OK" || e.Bytes == 0 || e.Left <= 0 || e.Age < 0 {
		t.Errorf("of an answer it tells %+v", e)
	}
	if told[1].Misses != 1 {
		t.Errorf("of the other it tells %+v", told[1])
	}
	given.Close()
	if names := namesOf(tellCaches(t, page)); !slices.Equal(names, []string{"runtime"}) {
		t.Errorf("when one is closed it tells of %q", names)
	}
}

func TestTheIndexIsBounded(t *testing.T) {
	m := newMesh(t)
	m.serve(&shop{name: "a"})
	client, _ := m.client("consul:///catalog")
	for i := range 60 {
		get(t, client, fmt.Sprint(i))
	}
	if told := tellCaches(t, adminPage(t, m.runtime))[0]; told.Entries != 60 || len(told.Index) != 50 {
		t.Errorf("of %d answers it lists %d, want 50 of 60", told.Entries, len(told.Index))
	}
}

func TestCachesAreClearedThroughTheAdminPage(t *testing.T) {
	for _, test := range []struct {
		values string
		calls  int64 // that go through afterwards, of two
		answer string
	}{
		{"all=true", 2, `"entries": 1`},
		{"method=" + url.QueryEscape(getSweet), 2, `"entries": 1`},
		{"all=true&cache=runtime", 1, `"runtime"`},
		{"all=true&cache=" + url.QueryEscape("consul:///catalog"), 1, `"consul:///catalog"`},
		{"method=a.B%2FC", 0, `"unknown_methods"`},
		{"tag=nobody", 0, `"runtime"`},
		{"method=a.B%2FC&method=" + url.QueryEscape(getSweet) + "&tag=nobody", 2, `"a.B/C"`},
	} {
		t.Run(test.values, func(t *testing.T) {
			m := newMesh(t)
			served := m.serve(&shop{name: "a"}, uncached())
			own, _ := m.client("consul:///catalog")
			other, _ := m.client("consul:///catalog", meshlite.WithCache(newCache(t)))
			get(t, own, "x")
			get(t, other, "x")
			before := served.calls.Load()
			code, text := clearCaches(t, adminPage(t, m.runtime), test.values)
			if code != http.StatusOK || !strings.Contains(text, test.answer) {
				t.Errorf("%d %s, want %s", code, text, test.answer)
			}
			get(t, own, "x")
			get(t, other, "x")
			if calls := served.calls.Load() - before; calls != test.calls {
				t.Errorf("%d calls went through, want %d", calls, test.calls)
			}
		})
	}
}

// away is a store that cannot be told anything.
type away struct{}

func (away) Load(context.Context, string, []string) ([]byte, string, error) { return nil, "", nil }
func (away) Save(context.Context, string, []byte, time.Duration) error      { return nil }
func (away) Invalidate(context.Context, []string) error                     { return errors.New("redis is away") }
func (away) Subscribe(func([]string)) func()                                { return func() {} }

func TestClearingTellsOfAStoreThatWasNotTold(t *testing.T) {
	m := newMesh(t)
	given, err := cache.New(cache.WithStore(away{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(given.Close)
	m.client("consul:///catalog", meshlite.WithCache(given))
	code, text := clearCaches(t, adminPage(t, m.runtime), "all=true")
	if code != http.StatusOK || strings.Count(text, "redis is away") != 1 || !strings.Contains(text, `"name": "runtime"`) {
		t.Errorf("%d %s", code, text)
	}
}

func TestClearingSaysWhatIsWrong(t *testing.T) {
	page := adminPage(t, meshlite.NewRuntime())
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
		"methods=a.B/C":            `value "methods" is not known: write method, tag, all or cache`,
		"all=true&cache=catalog":   `cache "catalog" is not there: it has ["runtime"]`,
		"all=true&cache=a&cache=b": `cache "a" is not there`,
	} {
		if code, text := clearCaches(t, page, values); code != http.StatusBadRequest || !strings.Contains(text, want) {
			t.Errorf("%q: %d %s, want %s", values, code, text, want)
		}
	}
	if told := tellCaches(t, page)[0]; told.Invalidations != 0 {
		t.Errorf("%d invalidations, want none", told.Invalidations)
	}
}

func TestCachesHaveNamesOfTheirOwn(t *testing.T) {
	m := newMesh(t)
	var caches []*cache.Cache
	build := func(service string) {
		c := newCache(t)
		caches = append(caches, c)
		if _, err := meshlite.NewServer(service, meshlite.WithPlaintext(), meshlite.WithConsul(m.directory), meshlite.WithRuntime(m.runtime), meshlite.WithCache(c)); err != nil {
			t.Fatal(err)
		}
	}
	build("runtime")
	build("catalog")
	build("catalog")
	page := adminPage(t, m.runtime)
	if names := namesOf(tellCaches(t, page)); !slices.Equal(names, []string{"runtime", "runtime 2", "catalog", "catalog 2"}) {
		t.Errorf("it tells of %q", names)
	}
	for range 70 {
		build("many")
	}
	if n := len(tellCaches(t, page)); n != 65 {
		t.Errorf("it tells of %d, want 64 and its own", n)
	}
	for _, c := range caches {
		c.Close()
	}
	build("new")
	if names := namesOf(tellCaches(t, page)); !slices.Equal(names, []string{"runtime", "new"}) {
		t.Errorf("when the others are closed, it tells of %q", names)
	}
}

// Whoever forgets to close a cache pays for it no longer than it is used.
func TestTheRuntimeKeepsNoCacheAlive(t *testing.T) {
	m := newMesh(t)
	page := adminPage(t, m.runtime)
	func() {
		c, err := cache.New()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := meshlite.NewClient("passthrough:///localhost:1", meshlite.WithPlaintext(), meshlite.WithRuntime(m.runtime), meshlite.WithCache(c))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if n := len(tellCaches(t, page)); n != 2 {
			t.Errorf("it tells of %d caches, want 2", n)
		}
	}()
	for deadline := time.Now().Add(10 * time.Second); len(tellCaches(t, page)) > 1; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("it is still there after 10s")
		}
	}
}
