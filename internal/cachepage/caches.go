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
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/internal/weakset"
)

// ownCache is the name of the runtime's own.
const ownCache = "runtime"

// maxCaches caps the caches that a runtime tells of beside its own.
const maxCaches = 64

// Caches are those that a runtime tells of: its own, and what channels and servers were
// given. One that nobody uses any more is not kept alive. It is safe for concurrent use.
type Caches struct {
	own *cache.Cache
	all weakset.Set[cache.Cache] // its own first
}

type named = weakset.Named[cache.Cache]

// New tells of the runtime's own cache, also once it is closed.
func New(own *cache.Cache) *Caches {
	over := func(c *cache.Cache) bool { return c != own && c.Closed() }
	c := &Caches{own: own, all: weakset.Set[cache.Cache]{MaxNamed: 1 + maxCaches, Over: over}}
	c.all.AddNamed(own, ownCache)
	return c
}

// Own is the runtime's own.
func (c *Caches) Own() *cache.Cache { return c.own }

// Add tells of given from now on, until it is closed or gone. Its name is that of who was
// given it first: a target, or the service of a server.
func (c *Caches) Add(given *cache.Cache, user string) { c.all.AddNamed(given, user) }

// Stats are the figures of all of them, by name.
func (c *Caches) Stats() map[string]cache.Stats {
	all := map[string]cache.Stats{}
	for _, one := range c.all.Named() {
		all[one.Name] = one.Value.Stats()
	}
	return all
}
