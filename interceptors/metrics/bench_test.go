package metrics_test

import (
	"context"
	"testing"
	"time"

	middleware "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/metrics"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

var meta = &interceptors.CallMeta{
	Side: interceptors.Server, FullMethod: method,
	Service: "sweetshop.catalog.v1.CatalogService", Method: "GetSweet",
}

var (
	request any = &catalogv1.GetSweetRequest{Id: "lemon-sherbet"}
	reply   any = &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: "lemon-sherbet", Name: "Lemon Sherbet", Section: "boiled", PricePence: 120}}
)

func handler(context.Context, any) (any, error) { return reply, nil }

func invoker(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
	return nil
}

func TestUnaryCallsAllocateNothing(t *testing.T) {
	m := newMetrics(t, metrics.WithRegisterer(prometheus.NewRegistry()))
	traced := m.WithExemplarFromContext(func(context.Context) (string, bool) { return "4bf92f3577b34da6a3ce929d0e0e4736", false })
	server, client, inner := m.UnaryServer(meta), m.UnaryClient(meta), m.Handlers().UnaryServer(meta)
	unsampled := traced.UnaryServer(meta)
	info := &grpc.UnaryServerInfo{FullMethod: method}
	alone := m.UnaryServerInterceptor()
	for name, call := range map[string]func(){
		"server":       func() { _, _ = server(t.Context(), request, info, handler) },
		"server alone": func() { _, _ = alone(t.Context(), request, info, handler) },
		"handler":      func() { _, _ = inner(t.Context(), request, info, handler) },
		"not sampled":  func() { _, _ = unsampled(t.Context(), request, info, handler) },
		"client":       func() { _ = client(t.Context(), method, request, reply, nil, invoker) },
		"events": func() {
			m.CacheResult(meta, "hit")
			m.LimitResult(meta, "customer", "admitted")
			m.Attempt(meta, codes.OK, "answered")
		},
	} {
		if got := testing.AllocsPerRun(1000, call); got != 0 {
			t.Errorf("%s: %v allocations, want 0", name, got)
		}
	}
}

func BenchmarkUnaryServer(b *testing.B) {
	theirs := middleware.NewServerMetrics(middleware.WithServerHandlingTimeHistogram())
	m := newMetrics(b, metrics.WithRegisterer(prometheus.NewRegistry()))
	info := &grpc.UnaryServerInfo{FullMethod: method}
	for _, one := range []struct {
		name        string
		interceptor grpc.UnaryServerInterceptor
	}{
		{"bare", bare()},
		{"meshlite", m.UnaryServer(meta)},
		{"handler", m.Handlers().UnaryServer(meta)},
		{"go-grpc-middleware", theirs.UnaryServerInterceptor()},
	} {
		b.Run(one.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = one.interceptor(b.Context(), request, info, handler)
			}
		})
	}
}

func BenchmarkUnaryClient(b *testing.B) {
	client := newMetrics(b, metrics.WithRegisterer(prometheus.NewRegistry())).UnaryClient(meta)
	same := bare()
	for _, one := range []struct {
		name        string
		interceptor grpc.UnaryClientInterceptor
	}{
		{"bare", func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			_, err := same(ctx, req, nil, func(ctx context.Context, req any) (any, error) {
				return nil, invoker(ctx, method, req, reply, cc, opts...)
			})
			return err
		}},
		{"meshlite", client},
	} {
		b.Run(one.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = one.interceptor(b.Context(), method, request, reply, nil, invoker)
			}
		})
	}
}

// bare makes the same calls of client_golang, and knows the sizes beforehand.
func bare() grpc.UnaryServerInterceptor {
	started, handled, received, sent := prometheus.NewCounter(prometheus.CounterOpts{}), prometheus.NewCounter(prometheus.CounterOpts{}),
		prometheus.NewCounter(prometheus.CounterOpts{}), prometheus.NewCounter(prometheus.CounterOpts{})
	inFlight := prometheus.NewGauge(prometheus.GaugeOpts{})
	histogram := func(buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Buckets: buckets, NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour})
	}
	seconds, bytes := histogram(prometheus.ExponentialBuckets(1e-5, 2, 19)), prometheus.ExponentialBuckets(128, 8, 6)
	receivedBytes, sentBytes := histogram(bytes), histogram(bytes)
	in, out := float64(proto.Size(request.(proto.Message))), float64(proto.Size(reply.(proto.Message)))
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		started.Inc()
		inFlight.Inc()
		start := time.Now()
		received.Inc()
		receivedBytes.Observe(in)
		reply, err := handler(ctx, req)
		sent.Inc()
		sentBytes.Observe(out)
		seconds.Observe(time.Since(start).Seconds())
		handled.Inc()
		inFlight.Dec()
		return reply, err
	}
}
