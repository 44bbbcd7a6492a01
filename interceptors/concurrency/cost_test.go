package concurrency_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// rules are those whose cost is measured.
var rules = map[string]*policyv1.ConcurrencyRule{
	"static": static(4), "adaptive": adaptive(4, 4),
}

// interceptorOf is the part itself, as a chain runs it, and leaves so many places.
func interceptorOf(t testing.TB, l *concurrency.Limiter, rule *policyv1.ConcurrencyRule, places int) grpc.UnaryServerInterceptor {
	t.Helper()
	part := l.UnaryServer(policies(t, rule).Call(interceptors.Server, getSweet))
	for range 4 - places {
		started, ended := make(chan struct{}), make(chan struct{})
		release := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = part(context.Background(), nil, nil, func(context.Context, any) (any, error) { close(started); <-release; return nil, nil })
		}()
		<-started
		t.Cleanup(func() { close(release); <-ended })
	}
	return part
}

func nothing(context.Context, any) (any, error) { return nil, nil }

func TestCallsAllocateNothing(t *testing.T) {
	for name, rule := range rules {
		for what, places := range map[string]int{"admitted": 4, "refused": 0} {
			part := interceptorOf(t, newLimiter(t), rule, places)
			ctx := t.Context()
			if n := testing.AllocsPerRun(1000, func() { _, _ = part(ctx, nil, nil, nothing) }); n != 0 {
				t.Errorf("%s, %s: %v allocations", name, what, n)
			}
		}
	}
}

func BenchmarkCall(b *testing.B) {
	for name, rule := range rules {
		for what, places := range map[string]int{"admitted": 4, "refused": 0} {
			b.Run(name+"/"+what, func(b *testing.B) {
				part := interceptorOf(b, newLimiter(b), rule, places)
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						_, _ = part(b.Context(), nil, nil, nothing)
					}
				})
			})
		}
	}
}
