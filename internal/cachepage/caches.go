// Package cachepage is what the admin page tells of the caches of a process, and how
// they are cleared there. Programs write its JSON and the meshlite tool reads it, so that
// both have it from here.
//
//	caches := cachepage.New(own)
//	caches.Add(given, "consul:///catalog")
//	admin.New(
//		admin.WithStats("cache", func() any { return caches.Page() }),
//		admin.WithAction(cachepage.ClearAction, "drop answers", caches.Clear))
package cachepage

import (
	"fmt"
	"slices"
	"sync"
	"weak"

	"github.com/meshlite-go/meshlite/interceptors/cache"
)

// ownCache is the name of the runtime's own.
const ownCache = "runtime"

// maxCaches caps the caches that a runtime tells of beside its own.
const maxCaches = 64

// Caches are those that a runtime tells of: its own, and what channels and servers were
// given. One that nobody uses any more is not kept alive. It is safe for concurrent use.
type Caches struct {
	own *cache.Cache

	mu    sync.Mutex
	given []givenCache
}

type givenCache struct {
	name string
	weak weak.Pointer[cache.Cache]
}

type namedCache struct {
	name string
	*cache.Cache
}

// New tells of the runtime's own cache.
func New(own *cache.Cache) *Caches { return &Caches{own: own} }

// Own is the runtime's own.
func (c *Caches) Own() *cache.Cache { return c.own }

// Add tells of given from now on, until it is closed or gone. Its name is that of who was
// given it first: a target, or the service of a server.
func (c *Caches) Add(given *cache.Cache, user string) {
	if given == nil || given == c.own {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.living()
	if len(known) > maxCaches || slices.ContainsFunc(known, func(k namedCache) bool { return k.Cache == given }) {
		return
	}
	c.given = append(c.given, givenCache{free(user, known), weak.Make(given)})
}

// free is name, or with a number what no other has.
func free(name string, known []namedCache) string {
	taken := func(name string) bool {
		return slices.ContainsFunc(known, func(k namedCache) bool { return k.name == name })
	}
	for n, first := 2, name; taken(name); n++ {
		name = fmt.Sprintf("%s %d", first, n)
	}
	return name
}

// all are those that are in use, the runtime's own first.
func (c *Caches) all() []namedCache {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.living()
}

// Stats are the figures of all of them, by name.
func (c *Caches) Stats() map[string]cache.Stats {
	all := map[string]cache.Stats{}
	for _, one := range c.all() {
		all[one.name] = one.Stats()
	}
	return all
}

// living forgets those that are not.
func (c *Caches) living() []namedCache {
	all := []namedCache{{ownCache, c.own}}
	c.given = slices.DeleteFunc(c.given, func(g givenCache) bool {
		alive := g.weak.Value()
		if alive == nil || alive.Closed() {
			return true
		}
		all = append(all, namedCache{g.name, alive})
		return false
	})
	return all
}
