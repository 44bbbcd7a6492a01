package redis_test

import (
	"testing"

	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/redistest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// One decision of a server's chain by Redis on loopback, and one of a caller who is over
// the limit, which costs it nothing.
func BenchmarkDecision(b *testing.B) {
	s := redistest.Start(b)
	r := newReplica(b, connected(b, s.URL()), []*policyv1.RateLimitRule{shared(1_000_000_000, "1s", 0)})
	abused := newReplica(b, connected(b, s.URL()), []*policyv1.RateLimitRule{shared(1, "1000h", 0)})
	_ = abused.call("abuser")
	_ = abused.call("abuser")
	for name, call := range map[string]func(string) error{"redis": r.call, "abuser": abused.call} {
		b.Run(name+"/alone", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = call("abuser")
			}
		})
		b.Run(name+"/parallel", func(b *testing.B) {
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_ = call("abuser")
				}
			})
		})
	}
	want(b, "errors", r.Stats().StoreErrors, 0)
}

// Without what surrounds it.
func BenchmarkTake(b *testing.B) {
	store := connected(b, redistest.Start(b).URL())
	c := []ratelimit.Charge{{Key: [16]byte{1}, Cost: 1, Burst: 1_000_000_000}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := store.Take(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
