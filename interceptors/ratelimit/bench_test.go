package ratelimit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
)

// Each pair is run side by side with golang.org/x/time/rate, which keeps no keys:
// over many keys it is given a sync.Map of limiters.
func BenchmarkDecision(b *testing.B) {
	keys := make([]string, 10_000)
	for i := range keys {
		keys[i] = fmt.Sprint("customer-", i)
	}
	for _, keys := range [][]string{keys[:1], keys} {
		for _, calls := range []uint64{1, 1e9} { // nearly all refused, all admitted
			name := fmt.Sprintf("keys=%d/limit=%d", len(keys), calls)
			b.Run(name+"/by=table", func(b *testing.B) {
				table, limit := newTable(b, 1<<17), ratelimit.Limit{Calls: calls, Period: time.Second}
				for _, key := range keys { // as the other side has them
					table.Allow(key, limit, 1)
				}
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for i := rand.IntN(len(keys)); pb.Next(); i++ { // or all would meet at each key
						table.Allow(keys[i%len(keys)], limit, 1)
					}
				})
			})
			b.Run(name+"/by=xtimerate", func(b *testing.B) {
				var limiters sync.Map
				for _, key := range keys {
					limiters.Store(key, rate.NewLimiter(rate.Limit(calls), int(calls)))
				}
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for i := rand.IntN(len(keys)); pb.Next(); i++ { // or all would meet at each key
						l, _ := limiters.Load(keys[i%len(keys)])
						l.(*rate.Limiter).Allow()
					}
				})
			})
		}
	}
}

// The whole part of a server in a call, and what it costs to refuse one.
func BenchmarkCall(b *testing.B) {
	for _, calls := range []uint64{1, 1e12} {
		b.Run(fmt.Sprint("limit=", calls), func(b *testing.B) {
			part := newLimiter(b).UnaryServer(policies(b, limit("one", calls, byPeer())).Call(interceptors.Server, browse))
			ctx, handler := tcp("192.0.2.1:1"), func(context.Context, any) (any, error) { return nil, nil }
			b.ReportAllocs()
			for b.Loop() {
				_, _ = part(ctx, nil, nil, handler)
			}
		})
	}
}
