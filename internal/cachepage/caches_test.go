package cachepage_test

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/internal/cachepage"
)

func TestCachesHaveNamesOfTheirOwn(t *testing.T) {
	caches := cachepage.New(newCache(t))
	var given []*cache.Cache
	add := func(user string) {
		c := newCache(t)
		given = append(given, c)
		caches.Add(c, user)
	}
	add("runtime")
	add("catalog")
	add("catalog")
	if names := namesOf(caches.Page()); !slices.Equal(names, []string{"runtime", "runtime 2", "catalog", "catalog 2"}) {
		t.Errorf("it reports %q", names)
	}
	for range 70 {
		add("many")
	}
	if n := len(caches.Page().Caches); n != 65 {
		t.Errorf("it reports %d, want 64 and its own", n)
	}
	for _, c := range given {
		c.Close()
	}
	add("new")
	if names := namesOf(caches.Page()); !slices.Equal(names, []string{"runtime", "new"}) {
		t.Errorf("when the others are closed, it reports %q", names)
	}
}

func TestACacheIsReportedOnce(t *testing.T) {
	own, given := newCache(t), newCache(t)
	caches := cachepage.New(own)
	caches.Add(nil, "nobody")
	caches.Add(own, "catalog")
	caches.Add(given, "first")
	caches.Add(given, "second")
	if names := namesOf(caches.Page()); !slices.Equal(names, []string{"runtime", "first"}) {
		t.Errorf("it reports %q", names)
	}
	if caches.Own() != own {
		t.Error("its own is another")
	}
	own.Close()
	if names := namesOf(caches.Page()); !slices.Equal(names, []string{"runtime", "first"}) {
		t.Errorf("when its own is closed, it reports %q", names)
	}
}

func TestNoCacheIsKeptAlive(t *testing.T) {
	caches := cachepage.New(newCache(t))
	func() {
		c, err := cache.New() // nobody closes it
		if err != nil {
			t.Fatal(err)
		}
		caches.Add(c, "catalog")
		if n := len(caches.Page().Caches); n != 2 {
			t.Errorf("it reports %d caches, want 2", n)
		}
	}()
	for deadline := time.Now().Add(10 * time.Second); len(caches.Page().Caches) > 1; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("it is still there after 10s")
		}
	}
}
