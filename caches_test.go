package meshlite_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/internal/cachepage"
)

// adminPage is that of a runtime.
func adminPage(t *testing.T, r *meshlite.Runtime) http.Handler {
	t.Helper()
	handler, err := r.Handler()
	if err != nil {
		t.Fatal(err)
	}
	return handler
}

// readCaches reads the caches of the page.
func readCaches(t *testing.T, page http.Handler) []cachepage.Report {
	t.Helper()
	answer := httptest.NewRecorder()
	page.ServeHTTP(answer, localRequest(http.MethodGet, "/debug/meshlite", nil))
	var shown struct{ Cache cachepage.Page }
	if err := json.Unmarshal(answer.Body.Bytes(), &shown); err != nil {
		t.Fatalf("%v in %s", err, answer.Body)
	}
	return shown.Cache.Caches
}

func namesOf(reports []cachepage.Report) []string {
	var names []string
	for _, c := range reports {
		names = append(names, c.Name)
	}
	return names
}

// clearCaches asks the page to clear, and gives what it says.
func clearCaches(t *testing.T, page http.Handler, values string) (code int, text string) {
	t.Helper()
	r := localRequest(http.MethodPost, "/debug/meshlite/cache/clear", strings.NewReader(values))
	r.Header.Set("Meshlite-Action", "cache/clear")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer := httptest.NewRecorder()
	page.ServeHTTP(answer, r)
	return answer.Code, answer.Body.String()
}

func newCache(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestTheAdminPageShowsAllCaches(t *testing.T) {
	m := newMesh(t)
	served := newCache(t)
	m.serve(&shop{name: "a"}, meshlite.WithRuntime(m.runtime), meshlite.WithCache(served))
	given := newCache(t)
	own, _ := m.client("consul:///catalog")
	other, _ := m.client("consul:///catalog?dc=dc1", meshlite.WithCache(given))
	m.client("consul:///catalog", meshlite.WithCache(given)) // reported once
	for _, id := range []string{"x", "x", "y"} {
		get(t, own, id)
	}
	get(t, other, "x")
	page := adminPage(t, m.runtime)
	reports := readCaches(t, page)
	if names := namesOf(reports); !slices.Equal(names, []string{"runtime", "catalog", "consul:///catalog?dc=dc1"}) {
		t.Fatalf("it shows %q", names)
	}
	if c := reports[0]; c.Hits != 1 || c.Misses != 2 || c.Entries != 2 || len(c.Methods) != 1 || len(c.Index) != 2 {
		t.Errorf("of the runtime's it shows %+v", c)
	}
	if reports[2].Misses != 1 {
		t.Errorf("of the other it shows %+v", reports[2])
	}
	given.Close()
	served.Close()
	if names := namesOf(readCaches(t, page)); !slices.Equal(names, []string{"runtime"}) {
		t.Errorf("when the others are closed it shows %q", names)
	}
}

func TestCachesAreClearedThroughTheAdminPage(t *testing.T) {
	m := newMesh(t)
	served := m.serve(&shop{name: "a"}, uncached())
	own, _ := m.client("consul:///catalog")
	other, _ := m.client("consul:///catalog", meshlite.WithCache(newCache(t)))
	page := adminPage(t, m.runtime)
	for _, test := range []struct {
		values string
		code   int
		calls  int64 // that go through afterwards, of two
		answer string
	}{
		{"all=true", http.StatusOK, 2, `"entries": 1`},
		{"all=true&cache=runtime", http.StatusOK, 1, `"runtime"`},
		{"", http.StatusBadRequest, 0, "nothing says what to clear"},
	} {
		get(t, own, "x")
		get(t, other, "x")
		before := served.calls.Load()
		if code, text := clearCaches(t, page, test.values); code != test.code || !strings.Contains(text, test.answer) {
			t.Errorf("%q: %d %s, want %d %s", test.values, code, text, test.code, test.answer)
		}
		get(t, own, "x")
		get(t, other, "x")
		if calls := served.calls.Load() - before; calls != test.calls {
			t.Errorf("%q: %d calls went through, want %d", test.values, calls, test.calls)
		}
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
		if n := len(readCaches(t, page)); n != 2 {
			t.Errorf("it shows %d caches, want 2", n)
		}
	}()
	for deadline := time.Now().Add(10 * time.Second); len(readCaches(t, page)) > 1; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("it is still there after 10s")
		}
	}
}
