// Package limitspage is the part of the admin page about the limits of a process: rate limits
// and concurrency limits. Programs write its JSON and the meshlite tool reads it, both with
// the types of this package.
//
//	limits := limitspage.New(own)
//	limits.AddServer(limiter, "catalog")
//	admin.New(
//		admin.WithStats("limits", func() any { return limits.Page() }),
//		admin.WithStats("concurrency", func() any { return limits.ConcurrencyPage() }))
package limitspage

import (
	"slices"

	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/weakset"
)

// ownLimiter is the name of the runtime's own.
const ownLimiter = "runtime"

// maxLimiters caps the limiters on the page: of servers, of channels, and of handlers
// beside the runtime's own.
const maxLimiters = 64

// Limits are the limiters of a runtime. They are held weakly: one that is not used any more
// is not kept alive. It is safe for concurrent use.
type Limits struct {
	own               *concurrency.Limiter
	servers, channels weakset.Set[ratelimit.Limiter]
	handlers          weakset.Set[concurrency.Limiter] // the runtime's own first
}

type named = weakset.Named[ratelimit.Limiter]

// New has own, the runtime's, on the page.
func New(own *concurrency.Limiter) *Limits {
	l := &Limits{own: own}
	l.servers.MaxNamed, l.channels.MaxNamed, l.handlers.MaxNamed = maxLimiters, maxLimiters, 1+maxLimiters
	l.handlers.AddNamed(own, ownLimiter)
	return l
}

// Own is the runtime's own.
func (l *Limits) Own() *concurrency.Limiter { return l.own }

// AddServer adds the rate limits of a server until they are garbage. A limiter has the name
// under which it was added first.
func (l *Limits) AddServer(given *ratelimit.Limiter, service string) {
	l.servers.AddNamed(given, service)
}

// AddChannel adds the rate limits of a channel likewise.
func (l *Limits) AddChannel(given *ratelimit.Limiter, target string) {
	l.channels.AddNamed(given, target)
}

// AddHandlers adds the concurrency limits of a server.
func (l *Limits) AddHandlers(given *concurrency.Limiter, service string) {
	l.handlers.AddNamed(given, service)
}

// Rates are all rate limiters, also those that the page has no room for. One that a server
// and a channel share is there twice.
func (l *Limits) Rates() []*ratelimit.Limiter {
	return slices.Concat(l.servers.All(), l.channels.All())
}

// listed are the rate limiters on the page, those of servers first, and each once.
func (l *Limits) listed() []named {
	all := l.servers.Named()
	for _, one := range l.channels.Named() {
		if !slices.ContainsFunc(all, func(n named) bool { return n.Value == one.Value }) {
			all = append(all, one)
		}
	}
	return all
}
