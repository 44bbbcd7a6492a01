package tracing_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/tracing"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// parts are how many a method would have in chains.
func parts(traced *tracing.Tracing, service string) (n int) {
	meta := func(side interceptors.Side) *interceptors.CallMeta {
		return &interceptors.CallMeta{Side: side, Service: service, FullMethod: "/" + service + "/M", Policy: &policyv1.MethodPolicy{}}
	}
	client, server := meta(interceptors.Client), meta(interceptors.Server)
	for _, there := range []bool{
		traced.UnaryClient(client) != nil, traced.StreamClient(client) != nil, traced.UnaryAttempt(client) != nil,
		traced.StreamAttempt(client) != nil, traced.UnaryServer(server) != nil, traced.StreamServer(server) != nil,
	} {
		if there {
			n++
		}
	}
	return n
}

// The global providers, once set, stay set: this test has a process of its own.
//
// Case traces
func TestWhatIsOffHasNoPart(t *testing.T) {
	if os.Getenv("TRACING_TEST_GLOBALS") == "" {
		own := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWhatIsOffHasNoPart$")
		own.Env = append(os.Environ(), "TRACING_TEST_GLOBALS=1")
		if out, err := own.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	traced := newTracing(t)
	check := func(when string, traced *tracing.Tracing, want int) {
		t.Helper()
		if got := parts(traced, "a.B"); got != want {
			t.Errorf("%s: %d parts, want %d", when, got, want)
		}
	}
	check("nothing is set", traced, 0)
	check("a provider that makes none", newTracing(t, tracing.WithTracerProvider(noop.NewTracerProvider())), 0)
	check("a provider that makes none, and propagators", newTracing(t, tracing.WithTracerProvider(noop.NewTracerProvider()),
		tracing.WithPropagators(propagation.TraceContext{})), 6)
	check("the global provider given", newTracing(t, tracing.WithTracerProvider(otel.GetTracerProvider())), 6)
	if got := parts(newTracing(t, tracing.WithTracerProvider(sdktrace.NewTracerProvider())), "grpc.health.v1.Health"); got != 0 {
		t.Errorf("health checks have %d parts", got)
	}
	if got := parts(newTracing(t, tracing.WithTracerProvider(sdktrace.NewTracerProvider())), "grpc.health.shop.v1.Orders"); got != 6 {
		t.Errorf("a user's service in a package named grpc has %d parts", got)
	}
	everything := tracing.WithSkip(func(*interceptors.CallMeta) bool { return true })
	check("all skipped", newTracing(t, tracing.WithTracerProvider(sdktrace.NewTracerProvider()), everything), 0)

	otel.SetTracerProvider(sdktrace.NewTracerProvider())
	check("the global provider is set", traced, 6)
	otel.SetTracerProvider(noop.NewTracerProvider())
	check("the global provider is set to none", traced, 0)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	check("global propagators are set", traced, 6)
}

func TestOptionsAreChecked(t *testing.T) {
	for name, option := range map[string]tracing.Option{
		"WithTracerProvider(nil)": tracing.WithTracerProvider(nil), "WithPropagators(nil)": tracing.WithPropagators(nil), "WithSkip(nil)": tracing.WithSkip(nil),
	} {
		if _, err := tracing.New(option); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A program that makes no spans does not cut the traces of others in two.
//
// Case traces
func TestWhoMakesNoSpansPassesTracesOn(t *testing.T) {
	w := newWorld(t, setup{options: []tracing.Option{tracing.WithTracerProvider(noop.NewTracerProvider()), tracing.WithPropagators(propagation.TraceContext{})}})
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	var got trace.SpanContext
	w.service.get = func(ctx context.Context, _ *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
		got = trace.SpanContextFromContext(ctx)
		return &catalogv1.GetSweetResponse{}, nil
	}
	if err := w.get(trace.ContextWithSpanContext(t.Context(), parent), "a"); err != nil {
		t.Fatal(err)
	}
	if got.TraceID() != parent.TraceID() || got.SpanID() != parent.SpanID() {
		t.Errorf("the handler sees %v %v", got.TraceID(), got.SpanID())
	}
}

// Who is not sampled at the client is not at the server either, which would be half a
// trace.
func TestCallsThatAreNotSampledMakeNoSpans(t *testing.T) {
	w := newWorld(t, setup{sampler: sdktrace.ParentBased(sdktrace.NeverSample())})
	var got trace.SpanContext
	w.service.get = func(ctx context.Context, _ *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
		got = trace.SpanContextFromContext(ctx)
		if id := tracing.TraceID(ctx); id != "" {
			t.Errorf("TraceID is %q", id)
		}
		return &catalogv1.GetSweetResponse{}, nil
	}
	if err := w.get(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	w.open(t.Context(), t)
	if spans := w.settle(); len(spans) != 0 || !got.IsValid() || got.IsSampled() {
		t.Errorf("spans are %v; the handler's is %+v", names(spans), got)
	}
}

func answer(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
	return nil
}

func neverSampled() tracing.Option {
	return tracing.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())))
}

// Case traces
func TestCostOfCallsThatAreNotSampled(t *testing.T) {
	w3c := tracing.WithPropagators(propagation.TraceContext{})
	client := chain(t, interceptors.Client, nil, newTracing(t, neverSampled(), w3c)).UnaryClient()
	server := chain(t, interceptors.Server, nil, newTracing(t, neverSampled(), w3c)).UnaryServer()
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"))
	info := &grpc.UnaryServerInfo{FullMethod: "/" + getSweet}
	handler := func(context.Context, any) (any, error) { return nil, nil }
	if got := testing.AllocsPerRun(1000, func() { _ = client(t.Context(), "/"+getSweet, nil, nil, nil, answer) }); got > 14 {
		t.Errorf("%v allocations on the client", got)
	}
	if got := testing.AllocsPerRun(1000, func() { _, _ = server(ctx, nil, info, handler) }); got > 14 {
		t.Errorf("%v allocations on the server", got)
	}
}

func BenchmarkCall(b *testing.B) {
	w3c := tracing.WithPropagators(propagation.TraceContext{})
	for _, bench := range []struct {
		name string
		opts []tracing.Option
	}{
		{"off", []tracing.Option{tracing.WithTracerProvider(noop.NewTracerProvider())}},
		{"not sampled", []tracing.Option{neverSampled(), w3c}},
		{"sampled", []tracing.Option{tracing.WithTracerProvider(sdktrace.NewTracerProvider()), w3c}},
	} {
		client := chain(b, interceptors.Client, nil, newTracing(b, bench.opts...)).UnaryClient()
		server := chain(b, interceptors.Server, nil, newTracing(b, bench.opts...)).UnaryServer()
		flag := "00"
		if bench.name == "sampled" {
			flag = "01"
		}
		ctx := metadata.NewIncomingContext(b.Context(), metadata.Pairs("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"+flag))
		info := &grpc.UnaryServerInfo{FullMethod: "/" + getSweet}
		handler := func(context.Context, any) (any, error) { return nil, nil }
		b.Run("client/"+bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = client(b.Context(), "/"+getSweet, nil, nil, nil, answer)
			}
		})
		b.Run("server/"+bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = server(ctx, nil, info, handler)
			}
		})
	}
}
