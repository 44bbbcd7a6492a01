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
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/metrics"
	"github.com/meshlite-go/meshlite/interceptors/retry"
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

// Case metrics
func TestUnaryCallsAllocateNothing(t *testing.T) {
	m := newMetrics(t, metrics.WithRegisterer(prometheus.NewRegistry()))
	traced := m.WithExemplarFromContext(func(context.Context) (string, bool) { return "4bf92f3577b34da6a3ce929d0e0e4736", false })
	server, client, inner := m.UnaryServer(meta), m.UnaryClient(meta), m.Handlers().UnaryServer(meta)
	unsampled := traced.UnaryServer(meta)
	info := &grpc.UnaryServerInfo{FullMethod: method}
	var admitted interceptors.Event = verdict{"customer", "admitted"}
	answered := &retry.Attempt{Code: codes.OK, Verdict: retry.Answered}
	alone := m.UnaryServerInterceptor()
	for name, call := range map[string]func(){
		"server":       func() { _, _ = server(t.Context(), request, info, handler) },
		"server alone": func() { _, _ = alone(t.Context(), request, info, handler) },
		"handler":      func() { _, _ = inner(t.Context(), request, info, handler) },
		"not sampled":  func() { _, _ = unsampled(t.Context(), request, info, handler) },
		"client":       func() { _ = client(t.Context(), method, request, reply, nil, invoker) },
		"events": func() {
			m.Observe(t.Context(), meta, cache.Hit)
			m.Observe(t.Context(), meta, admitted)
			m.Observe(t.Context(), meta, answered)
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
		{"bare", newBare(false).serve},
		{"bare, with sizes", newBare(true).serve},
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
	same := newBare(false)
	for _, one := range []struct {
		name        string
		interceptor grpc.UnaryClientInterceptor
	}{
		{"bare", func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			start := same.start(req)
			err := invoker(ctx, method, req, reply, cc, opts...)
			same.end(start, reply)
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

// bare makes the same calls of client_golang. It knows the sizes of messages beforehand,
// or computes them, too.
type bare struct {
	sizes                             bool
	started, handled, received, sent  prometheus.Counter
	inFlight                          prometheus.Gauge
	seconds, receivedBytes, sentBytes prometheus.Histogram
	in, out                           float64
}

func newBare(sizes bool) *bare {
	counter := func() prometheus.Counter { return prometheus.NewCounter(prometheus.CounterOpts{}) }
	histogram := func(buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Buckets: buckets, NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour})
	}
	bytes := prometheus.ExponentialBuckets(128, 8, 6)
	return &bare{
		sizes: sizes, started: counter(), handled: counter(), received: counter(), sent: counter(),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{}),
		seconds:  histogram(prometheus.ExponentialBuckets(1e-5, 2, 19)), receivedBytes: histogram(bytes), sentBytes: histogram(bytes),
		in: float64(proto.Size(request.(proto.Message))), out: float64(proto.Size(reply.(proto.Message))),
	}
}

func (b *bare) size(message any, known float64) float64 {
	if b.sizes {
		return float64(proto.Size(message.(proto.Message)))
	}
	return known
}

func (b *bare) start(request any) time.Time {
	b.started.Inc()
	b.inFlight.Inc()
	start := time.Now()
	b.received.Inc()
	b.receivedBytes.Observe(b.size(request, b.in))
	return start
}

func (b *bare) end(start time.Time, reply any) {
	b.sent.Inc()
	b.sentBytes.Observe(b.size(reply, b.out))
	b.seconds.Observe(time.Since(start).Seconds())
	b.handled.Inc()
	b.inFlight.Dec()
}

func (b *bare) serve(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := b.start(req)
	reply, err := handler(ctx, req)
	b.end(start, reply)
	return reply, err
}
