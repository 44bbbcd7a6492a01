// Package cachepage is the admin page's report on the caches of a process, and its action
// to clear them. Programs write its JSON and the meshlite tool reads it.
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

// maxCaches caps the caches that a runtime reports beside its own.
const maxCaches = 64

// Caches are those that a runtime reports: its own, and those of its channels and servers,
// which it does not keep alive. It is safe for concurrent use.
type Caches struct {
	own *cache.Cache
	all weakset.Set[cache.Cache] // its own first
}

type named = weakset.Named[cache.Cache]

// New reports the runtime's own cache, even after it is closed.
func New(own *cache.Cache) *Caches {
	over := func(c *cache.Cache) bool { return c != own && c.Closed() }
	c := &Caches{own: own, all: weakset.Set[cache.Cache]{MaxNamed: 1 + maxCaches, Over: over}}
	c.all.AddNamed(own, ownCache)
	return c
}

// Own is the runtime's own.
func (c *Caches) Own() *cache.Cache { return c.own }

// Add reports given from now on, until it is closed or collected. Its name is that of its
// first user: a target, or the service of a server.
func (c *Caches) Add(given *cache.Cache, user string) { c.all.AddNamed(given, user) }

// Stats are the figures of all of them, by name.
func (c *Caches) Stats() map[string]cache.Stats {
	all := map[string]cache.Stats{}
	for _, one := range c.all.Named() {
		all[one.Name] = one.Value.Stats()
	}
	return all
}
