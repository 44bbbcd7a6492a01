package cache

import (
	"context"
	"math"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
)

const (
	// refreshTimeout is the deadline of a refresh where the policy has no timeout.
	refreshTimeout = 10 * time.Second
	// refreshPause is how long a method is not refreshed after that has failed by an outage:
	// calls are not to be made as fast as they fail.
	refreshPause = time.Second
)

// refreshesEarly draws whether a fresh answer is refreshed now: the more likely the nearer
// its end, and the longer its load took. So of many callers, on many machines, one asks
// before all must (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede
// Prevention, VLDB 2015).
func (r *rule) refreshesEarly(e *entry, now time.Time) bool {
	if r.eager == 0 || e.failure != nil {
		return false
	}
	left := r.ttlOf(e) - now.Sub(e.born)
	return float64(e.took)*r.eager*-math.Log(1-rand.Float64()) >= float64(left)
}

// refresh has the answer to a fetched anew with nobody waiting, unless somebody does
// already, or too much else is being fetched, or that has just failed.
func (r *rule) refresh(ctx context.Context, a *asked, key string, old *entry) {
	if time.Now().UnixNano() < r.method.pausedUntil.Load() {
		return
	}
	shared, first := r.flights.board(key + a.manner)
	if !first || shared == nil {
		return
	}
	// The caller is free to change its request as soon as it has its answer.
	own := &asked{key: a.key, request: proto.Clone(a.request), values: a.values, manner: a.manner}
	ctx, own.origin = a.origin.detached(interceptors.WithoutOutcome(ctx), own.request)
	if !r.refreshes.start(ctx, r.meta.FullMethod, func(ctx context.Context) { r.refreshNow(ctx, own, key, old, shared) }) {
		r.flights.land(key+a.manner, shared, outcome{}) // whoever waits there already, makes the call
	}
}

func (r *rule) refreshNow(ctx context.Context, a *asked, key string, old *entry, shared *flight) {
	ctx, cancel := context.WithTimeout(ctx, r.refreshTimeout)
	defer cancel()
	err := errPanicked
	defer func() {
		r.method.results.refreshed(err != nil)
		if code := status.Code(err); outage(code) || code == codes.ResourceExhausted {
			r.method.pausedUntil.Store(time.Now().Add(refreshPause).UnixNano())
		}
	}()
	_, err = r.lead(ctx, a, key, old, shared)
}
