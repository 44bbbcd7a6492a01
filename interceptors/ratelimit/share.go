package ratelimit

import (
	"math"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// leastShare bounds what a share function can do to a limit.
const leastShare = 1.0 / (1 << 16)

// Replica is a limiter in one server of several that divide its limits among them:
// those whose store is RATE_LIMIT_STORE_PER_REPLICA, and those whose shared store is away.
type Replica struct {
	limiter *Limiter
	share   func() float64
}

// Replica is l in a server that has a part of the whole of its service, above 0 and
// up to 1, as share tells. It is asked in each call that is counted by share, so it
// must be safe for concurrent use and quick. A share that [WithShare] tells wins.
func (l *Limiter) Replica(share func() float64) *Replica { return &Replica{l, share} }

// Stage is [interceptors.RateLimit].
func (r *Replica) Stage() interceptors.Stage { return interceptors.RateLimit }

// UnaryServer limits as [Limiter.UnaryServer] does.
func (r *Replica) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	return r.limiter.unaryPart(meta, r.share)
}

// StreamServer limits as [Limiter.StreamServer] does.
func (r *Replica) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	return r.limiter.streamPart(meta, r.share)
}

// sharing is the part of a rule that this process enforces by itself.
type sharing struct {
	of   func() float64 // nil: nobody tells it, and it is 1
	last atomic.Pointer[scaled]
}

// scaled are the rule's own terms at a share.
type scaled struct {
	share float64
	terms terms
}

// place says where r is counted: without a store by the share, since nothing that is
// missing may lift a limit, and without a share as if there was one replica.
func (l *Limiter) place(r *rule, store policyv1.RateLimitStore, share func() float64) {
	switch store {
	case policyv1.RateLimitStore_RATE_LIMIT_STORE_EXTERNAL:
		if l.options.store != nil {
			r.at = atStore
			break
		}
		l.warn(0, r, "a rate limit in a shared store is counted in each replica, by its share: give WithStore")
	case policyv1.RateLimitStore_RATE_LIMIT_STORE_PER_REPLICA:
	default:
		return
	}
	if l.options.share != nil {
		share = l.options.share
	}
	if r.at == atStore && r.onFailure > policyv1.StoreFailure_STORE_FAILURE_UNSPECIFIED && r.onFailure != policyv1.StoreFailure_STORE_FAILURE_PER_REPLICA {
		return
	}
	r.sharing = &sharing{of: share}
	if r.at == here {
		l.warnOfWhole(r)
	}
}

func (l *Limiter) warnOfWhole(r *rule) {
	if r.sharing.of == nil {
		l.warn(1, r, "each process admits the whole of a rate limit by share, since it does not know its part: give WithShare")
	}
}

// warn once in the life of the limiter.
func (l *Limiter) warn(what int, r *rule, text string) {
	l.warned[what].Do(func() {
		l.options.log.Warn(text, "limit", r.name, "method", r.meta.FullMethod, "side", r.meta.Side.String())
	})
}

// share is in its bounds, whatever the function tells.
func (s *sharing) share() float64 {
	if s.of == nil {
		return 1
	}
	share := s.of()
	if math.IsNaN(share) {
		return leastShare
	}
	return min(max(share, leastShare), 1)
}

// scaled are t for this process alone. Those of the rule are made once for a share.
func (r *rule) scaled(t *terms) *terms {
	share := r.sharing.share()
	if t != &r.terms {
		own := t.scaled(share)
		return &own
	}
	last := r.sharing.last.Load()
	if last == nil || last.share != share {
		last = &scaled{share, t.scaled(share)}
		r.sharing.last.Store(last)
	}
	return &last.terms
}

// scaled gives calls back so much slower. As many fewer of them fill the burst, which
// is the same time. A call that costs more than that needs a full bucket.
func (t terms) scaled(share float64) terms {
	if share == 1 || t.cost > t.burst {
		return t
	}
	slower := func(n int64) int64 { return int64(min(math.Ceil(float64(n)/share), longest)) }
	t.every, t.cost = slower(t.every), slower(t.cost)
	t.holds = max(t.burst, t.cost)
	return t
}
