package metrics_test

import (
	"context"
	"testing"
	"time"

	middleware "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/metrics"
)

var meta = &interceptors.CallMeta{
	Side: interceptors.Server, FullMethod: method,
	Service: "sweetshop.catalog.v1.CatalogService", Method: "GetSweet",
}

func handler(context.Context, any) (any, error) { return nil, nil }

func invoker(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
	return nil
}

func TestUnaryCallsAllocateNothing(t *testing.T) {
	m := newMetrics(t, metrics.WithRegisterer(prometheus.NewRegistry()))
	server, client := m.UnaryServer(meta), m.UnaryClient(meta)
	info := &grpc.UnaryServerInfo{FullMethod: method}
	alone := m.UnaryServerInterceptor()
	for name, call := range map[string]func(){
		"server":       func() { _, _ = server(t.Context(), nil, info, handler) },
		"server alone": func() { _, _ = alone(t.Context(), nil, info, handler) },
		"client":       func() { _ = client(t.Context(), method, nil, nil, nil, invoker) },
		"events":       func() { m.CacheResult(meta, "hit"); m.LimitResult(meta, "customer", "admitted") },
	} {
		if got := testing.AllocsPerRun(1000, call); got != 0 {
			t.Errorf("%s: %v allocations, want 0", name, got)
		}
	}
}

func BenchmarkUnaryServer(b *testing.B) {
	theirs := middleware.NewServerMetrics(middleware.WithServerHandlingTimeHistogram())
	for name, interceptor := range map[string]grpc.UnaryServerInterceptor{
		"meshlite":           newMetrics(b, metrics.WithRegisterer(prometheus.NewRegistry())).UnaryServer(meta),
		"go-grpc-middleware": theirs.UnaryServerInterceptor(),
		"bare":               bare(),
	} {
		info := &grpc.UnaryServerInfo{FullMethod: method}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = interceptor(b.Context(), nil, info, handler)
			}
		})
	}
}

// bare makes the same calls of client_golang and no other.
func bare() grpc.UnaryServerInterceptor {
	started, handled, received, sent := prometheus.NewCounter(prometheus.CounterOpts{}), prometheus.NewCounter(prometheus.CounterOpts{}),
		prometheus.NewCounter(prometheus.CounterOpts{}), prometheus.NewCounter(prometheus.CounterOpts{})
	inFlight := prometheus.NewGauge(prometheus.GaugeOpts{})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{Buckets: prometheus.ExponentialBuckets(1e-5, 2, 19)})
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		started.Inc()
		inFlight.Inc()
		start := time.Now()
		received.Inc()
		reply, err := handler(ctx, req)
		sent.Inc()
		seconds.Observe(time.Since(start).Seconds())
		handled.Inc()
		inFlight.Dec()
		return reply, err
	}
}
