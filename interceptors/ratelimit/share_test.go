package ratelimit_test

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/racetest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func byShare(name string, n uint64) *policyv1.RateLimitRule {
	rule := limit(name, n, nil)
	rule.Store = policyv1.RateLimitStore_RATE_LIMIT_STORE_PER_REPLICA
	return rule
}

// Three replicas that share a limit of 1,000 a second admit it within 3 %, of equal and
// of other weights, and for limits that do not divide by three.
//
// Case replicas
func TestSharesAddUpToTheLimit(t *testing.T) {
	racetest.Skip(t)
	for _, test := range []struct {
		limit  uint64
		shares []float64
	}{
		{1000, []float64{1.0 / 3, 1.0 / 3, 1.0 / 3}},
		{1000, []float64{0.2, 0.3, 0.5}},
		{10, []float64{1.0 / 3, 1.0 / 3, 1.0 / 3}},
	} {
		synctest.Test(t, func(t *testing.T) {
			rule := byShare("one", test.limit)
			rule.Period = proto.String("1s")
			p := policies(t, rule)
			var replicas []*ratelimit.Limiter
			for _, share := range test.shares {
				replicas = append(replicas, newLimiter(t, ratelimit.WithShare(func() float64 { return share })))
			}
			n, atOnce := 0, 0
			start := time.Now()
			for time.Since(start) < 5*time.Second {
				for _, l := range replicas {
					n += admitted(t, l, p, context.Background(), nil, 6)
				}
				if time.Since(start) == 0 {
					for _, l := range replicas {
						atOnce += admitted(t, l, p, context.Background(), nil, 550)
					}
					atOnce, n = atOnce+n, n+atOnce
				}
				time.Sleep(10 * time.Millisecond)
			}
			if most := int(test.limit); atOnce > most || atOnce < most-len(replicas) {
				t.Errorf("%d calls at once, want %d", atOnce, most)
			}
			if should := 6 * float64(test.limit); math.Abs(float64(n)-should) > max(0.03*should, float64(len(replicas))) { // each may be within one call
				t.Errorf("%v of %d/s admit %d in 5 s, want %v within 3 %%", test.shares, test.limit, n, should)
			}
		})
	}
}

// A share that changes leaves what was used, and nonsense lifts no limit.
func TestTheShareMayChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var share atomic.Value
		share.Store(0.5)
		l := newLimiter(t, ratelimit.WithShare(func() float64 { return share.Load().(float64) }))
		p := policies(t, byShare("one", 60))
		count := func() int { return admitted(t, l, p, context.Background(), nil, 100) }
		want(t, "half", count(), 30)
		share.Store(0.25)
		want(t, "at once", count(), 0)
		time.Sleep(time.Minute)
		want(t, "a quarter", count(), 15)
		share.Store(1.0)
		want(t, "at once", count(), 0)
		time.Sleep(30 * time.Second)
		want(t, "half of the time", count(), 30)
		time.Sleep(time.Minute)
		for _, test := range []struct {
			share float64
			want  int
		}{{7, 60}, {0, 1}, {-1, 1}, {math.NaN(), 1}, {math.Inf(1), 60}} {
			want(t, "reset", l.Reset(browse, "one", ""), nil)
			share.Store(test.share)
			want(t, "nonsense", count(), test.want)
		}
	})
}

// A call that costs more than the share of the burst is admitted by a full bucket.
func TestACallAboveTheShareOfTheBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := byShare("one", 60)
		rule.Burst, rule.Cost = proto.Uint64(10), proto.Uint64(5)
		l := newLimiter(t, ratelimit.WithShare(func() float64 { return 0.25 }))
		p := policies(t, rule)
		n := 0
		for range 600 {
			n += admitted(t, l, p, context.Background(), nil, 3)
			time.Sleep(time.Second)
		}
		// A quarter of one a second is a call of five each 20 s.
		want(t, "in ten minutes", n, 30)
		s, err := l.Standing(browse, "one", "")
		want(t, "standing", err == nil && s.Remaining <= 2, true)
	})
}

// So is one whose cost or limit is its own.
func TestOwnTermsAreSharedToo(t *testing.T) {
	rule := byShare("one", 60)
	l := newLimiter(t, ratelimit.WithShare(func() float64 { return 0.5 }),
		ratelimit.WithCost("one", func(context.Context, any) uint64 { return 3 }),
		ratelimit.WithLimit("one", func(_ context.Context, _ any, policy ratelimit.Limit) ratelimit.Limit {
			policy.Calls *= 2
			return policy
		}))
	p := policies(t, rule)
	want(t, "half of 120, by threes", admitted(t, l, p, context.Background(), nil, 100), 20)
	l = newLimiter(t, ratelimit.WithShare(func() float64 { return 0.5 }), ratelimit.WithCost("one", func(context.Context, any) uint64 { return 61 }))
	want(t, "more than the burst", admitted(t, l, p, context.Background(), nil, 1), 0)
}

// What cannot be counted as the policy says is never unlimited, and said once.
//
// Case L7
func TestMissingStoreAndShareAreLogged(t *testing.T) {
	open := shared("shared", 60, nil)
	open.OnStoreFailure = policyv1.StoreFailure_STORE_FAILURE_OPEN
	for name, test := range map[string]struct {
		rule *policyv1.RateLimitRule
		opts []ratelimit.Option
		want int
		says string
	}{
		"shared without a store":       {open, []ratelimit.Option{ratelimit.WithShare(func() float64 { return 0.5 })}, 30, "give WithStore"},
		"without a store and a share":  {open, nil, 60, "give WithStore"},
		"by share without a share":     {byShare("share", 60), nil, 60, "give WithShare"},
		"by share":                     {byShare("share", 60), []ratelimit.Option{ratelimit.WithShare(func() float64 { return 0.5 })}, 30, ""},
		"shared":                       {shared("shared", 60, nil), []ratelimit.Option{ratelimit.WithStore(newMemory())}, 60, ""},
		"shared without a known share": {shared("shared", 60, nil), []ratelimit.Option{ratelimit.WithStore(&memory{away: true})}, 60, "give WithShare"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			l := newLimiter(t, append(test.opts, ratelimit.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))...)
			p := policies(t, test.rule)
			want(t, "admitted", admitted(t, l, p, context.Background(), nil, 100), test.want)
			admitted(t, l, p, context.Background(), nil, 100)
			if !strings.Contains(log.String(), test.says) || test.says == "" && log.Len() > 0 {
				t.Errorf("log: %s, want %q", log.String(), test.says)
			}
			if n := strings.Count(log.String(), "give With"); n > 2 {
				t.Errorf("said %d times", n)
			}
		})
	}
}

// One limiter in two servers admits the share of each, unless an option sets it.
func TestReplicaKnowsItsShare(t *testing.T) {
	p := policies(t, byShare("one", 60))
	count := func(l *ratelimit.Limiter) (n int) {
		part := l.Replica(func() float64 { return 0.1 }).UnaryServer(p.Call(interceptors.Server, browse))
		for range 100 {
			if _, err := part(context.Background(), nil, nil, func(context.Context, any) (any, error) { return nil, nil }); err == nil {
				n++
			}
		}
		return n
	}
	want(t, "of the replica", count(newLimiter(t)), 6)
	want(t, "of the option", count(newLimiter(t, ratelimit.WithShare(func() float64 { return 0.5 }))), 30)
	want(t, "place", newLimiter(t).Replica(nil).Stage(), interceptors.RateLimit)
	want(t, "streams", newLimiter(t).Replica(func() float64 { return 1 }).StreamServer(p.Call(interceptors.Server, browse)) != nil, true)
}

// A share costs a call nothing more.
func TestShareAllocatesNothing(t *testing.T) {
	l, p := newLimiter(t, ratelimit.WithShare(func() float64 { return 0.5 })), policies(t, byShare("one", 1e9))
	part, ctx := l.UnaryServer(p.Call(interceptors.Server, browse)), context.Background()
	allocs := testing.AllocsPerRun(1000, func() {
		_, _ = part(ctx, nil, nil, func(context.Context, any) (any, error) { return nil, nil })
	})
	want(t, "allocations", allocs, 1) // the context
}
