package meshlite

import (
	"fmt"
	"slices"
	"sync"
	"weak"

	"github.com/meshlite-go/meshlite/interceptors/cache"
)

// ownCache is the name of the runtime's cache.
const ownCache = "runtime"

// maxCaches caps the caches that a runtime tells of beside its own.
const maxCaches = 64

// caches are those that a runtime tells of: its own, and what channels and servers were
// given. One that nobody uses any more is not kept alive.
type caches struct {
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

// add tells of c from now on, until it is closed or gone. Its name is that of who was
// given it first: a target, or the service of a server.
func (c *caches) add(given *cache.Cache, user string) {
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
func (c *caches) all() []namedCache {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.living()
}

// living forgets those that are not.
func (c *caches) living() []namedCache {
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
