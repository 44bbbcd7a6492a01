// Package limitspage is what the admin page tells of the limits of a process: of rates and
// of calls that run at once. Programs write its JSON and the meshlite tool reads it, so that
// both have it from here.
//
//	limits := limitspage.New(own)
//	limits.AddServer(limiter, "catalog")
//	admin.New(
//		admin.WithStats("limits", func() any { return limits.Page() }),
//		admin.WithStats("concurrency", func() any { return limits.ConcurrencyPage() }))
package limitspage

import (
	"fmt"
	"slices"
	"sync"
	"weak"

	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
)

// ownLimiter is the name of the runtime's own.
const ownLimiter = "runtime"

// maxLimiters caps those that a runtime tells of: of servers, of channels, and of handlers.
const maxLimiters = 64

// Limits are the limiters that a runtime tells of. One that nobody uses any more is not kept
// alive. It is safe for concurrent use.
type Limits struct {
	own               *concurrency.Limiter
	servers, channels users[ratelimit.Limiter]
	handlers          users[concurrency.Limiter]
}

// New tells of own, which is the runtime's.
func New(own *concurrency.Limiter) *Limits { return &Limits{own: own} }

// Own is the runtime's own.
func (l *Limits) Own() *concurrency.Limiter { return l.own }

// AddServer tells of the rate limits of a server from now on, until they are gone. The name of
// a limiter is that of who was given it first.
func (l *Limits) AddServer(given *ratelimit.Limiter, service string) { l.servers.add(given, service) }

// AddChannel tells of the rate limits of a channel likewise.
func (l *Limits) AddChannel(given *ratelimit.Limiter, target string) { l.channels.add(given, target) }

// AddHandlers tells of what bounds the handlers of a server.
func (l *Limits) AddHandlers(given *concurrency.Limiter, service string) {
	if given != l.own {
		l.handlers.add(given, service)
	}
}

// rates are all rate limiters, those of servers first, and each once.
func (l *Limits) rates() []named[ratelimit.Limiter] {
	all := l.servers.living()
	for _, one := range l.channels.living() {
		if !contains(all, one.of) {
			all = append(all, one)
		}
	}
	return all
}

// users are what servers or channels were given.
type users[T any] struct {
	mu    sync.Mutex
	given []given[T]
}

type given[T any] struct {
	name string
	weak weak.Pointer[T]
}

type named[T any] struct {
	name string
	of   *T
}

func (u *users[T]) add(of *T, name string) {
	if of == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	known := u.forget()
	if len(known) < maxLimiters && !contains(known, of) {
		u.given = append(u.given, given[T]{free(name, known), weak.Make(of)})
	}
}

// living are those that are in use, or were lately.
func (u *users[T]) living() []named[T] {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.forget()
}

// forget keeps those that are in use.
func (u *users[T]) forget() (all []named[T]) {
	u.given = slices.DeleteFunc(u.given, func(g given[T]) bool {
		of := g.weak.Value()
		if of != nil {
			all = append(all, named[T]{g.name, of})
		}
		return of == nil
	})
	return all
}

func contains[T any](all []named[T], of *T) bool {
	return slices.ContainsFunc(all, func(n named[T]) bool { return n.of == of })
}

// free is name, or with a number what no other has.
func free[T any](name string, known []named[T]) string {
	taken := func(name string) bool {
		return slices.ContainsFunc(known, func(n named[T]) bool { return n.name == name })
	}
	for n, first := 2, name; taken(name); n++ {
		name = fmt.Sprintf("%s %d", first, n)
	}
	return name
}
