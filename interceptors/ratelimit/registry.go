package ratelimit

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/meshlite-go/meshlite/interceptors"
)

// mostMethods bounds the methods whose limits can be told, as chains do.
const mostMethods = 4096

// registry knows the limits of the methods that were called, as of their last call,
// and by which a client has been refused.
type registry struct {
	mu     sync.Mutex
	parts  map[method]*part
	kinds  map[string]*kinds
	counts map[limitOf]*counts
}

type method struct {
	name string
	side interceptors.Side
}

// limitOf is a limit of a method.
type limitOf struct {
	method
	limit string
}

// counts are what became of calls at one limit. They outlive changes of the policy.
type counts struct{ refused, shadowed atomic.Uint64 }

func (r *registry) put(p *part) {
	at := method{p.meta.FullMethod, p.meta.Side}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch _, known := r.parts[at]; {
	case len(p.rules) == 0:
		delete(r.parts, at)
	case r.parts == nil:
		r.parts = map[method]*part{at: p}
	case known || len(r.parts) < mostMethods:
		r.parts[at] = p
	}
}

// kindsOf are those of a client's method, whoever asks for them.
func (r *registry) kindsOf(fullMethod string) *kinds {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.kinds[fullMethod]
	if k == nil {
		k = &kinds{}
		if r.kinds == nil {
			r.kinds = map[string]*kinds{}
		}
		if len(r.kinds) < mostMethods {
			r.kinds[fullMethod] = k
		}
	}
	return k
}

// countsOf are those of a limit, whoever asks for them.
func (r *registry) countsOf(meta *interceptors.CallMeta, limit string) *counts {
	at := limitOf{method{meta.FullMethod, meta.Side}, limit}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts[at]
	if c == nil {
		c = &counts{}
		if r.counts == nil {
			r.counts = map[limitOf]*counts{}
		}
		if len(r.counts) < mostMethods {
			r.counts[at] = c
		}
	}
	return c
}

// all are the parts by method, and the server's first.
func (r *registry) all() []*part {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*part, 0, len(r.parts))
	for _, p := range r.parts {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *part) int {
		return cmp.Or(cmp.Compare(a.meta.FullMethod, b.meta.FullMethod), cmp.Compare(b.meta.Side, a.meta.Side))
	})
	return all
}

// Standing tells where a key stands at a limit of a method that was called before,
// and charges nothing. The key is written as the policy counts: an address or
// network, an identity as package caller writes it, the value of the
// metadata key or of the request field, what [WithKey] gives; "" is that of all who
// have none. An unknown method or limit, a key that cannot be written down, and what
// the store says that counts are errors.
func (l *Limiter) Standing(fullMethod, limit, key string) (Standing, error) {
	r, k, err := l.find(fullMethod, limit, key)
	if err != nil {
		return Standing{}, err
	}
	if r.at == atStore {
		return l.sharedStanding(r, k)
	}
	terms, now := &r.terms, l.table.now()
	if r.sharing != nil {
		terms = r.scaled(terms)
	}
	tat, b := l.table.level(now, k, terms)
	return standing(r.name, terms, now, tat, b), nil
}

// Reset gives a key its whole burst again. It is written as for [Limiter.Standing],
// and the errors are the same.
func (l *Limiter) Reset(fullMethod, limit, key string) error {
	r, k, err := l.find(fullMethod, limit, key)
	if err != nil {
		return err
	}
	l.table.reset(k) // which counts while a store is away, too
	if r.at == atStore {
		return l.resetShared(r, k)
	}
	return nil
}

var errNoLimit = errors.New("no call of the method has met such a limit: write \"/package.Service/Method\" and the name in the policy")

func (l *Limiter) find(fullMethod, limit, value string) (*rule, key, error) {
	for _, p := range l.limits.all() {
		if p.meta.FullMethod != fullMethod {
			continue
		}
		for i := range p.rules {
			if r := &p.rules[i]; r.name == limit {
				k, err := r.by.find(value)
				if err != nil {
					err = fmt.Errorf("ratelimit: limit %q of %s: %w", limit, fullMethod, err)
				}
				return r, k, err
			}
		}
	}
	return nil, key{}, fmt.Errorf("ratelimit: limit %q of %q: %w", limit, fullMethod, errNoLimit)
}
