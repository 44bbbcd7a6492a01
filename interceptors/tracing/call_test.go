package tracing_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.opentelemetry.io/otel/baggage"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/interceptors/recovery"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	"github.com/meshlite-go/meshlite/interceptors/tracing"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func ptr[T any](value T) *T { return &value }

func (w *world) get(ctx context.Context, id string) error {
	_, err := w.catalog.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: id})
	return err
}

// A handler that calls another method of the same shop: the whole is one trace.
//
// Case traces
func TestCallsAttemptsAndHandlersAreOneTrace(t *testing.T) {
	w := newWorld(t, setup{})
	var inHandler string
	w.service.get = func(ctx context.Context, req *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
		if req.GetId() == "outer" {
			inHandler = tracing.TraceID(ctx)
			return &catalogv1.GetSweetResponse{}, w.get(ctx, "inner")
		}
		return &catalogv1.GetSweetResponse{}, nil
	}
	ctx, root := w.provider.Tracer("test").Start(t.Context(), "root")
	if err := w.get(ctx, "outer"); err != nil {
		t.Fatal(err)
	}
	root.End()
	spans := w.settle()
	// In the order of their ends: the inner server, attempt and call, then the outer ones.
	byKind := func(name string, kind trace.SpanKind) []sdktrace.ReadOnlySpan { return all(spans, name, kind) }
	calls, attempts, served := byKind(getSweet, trace.SpanKindClient), byKind("attempt "+getSweet, trace.SpanKindClient), byKind(getSweet, trace.SpanKindServer)
	if len(calls) != 2 || len(attempts) != 2 || len(served) != 2 {
		t.Fatalf("spans are %v", names(spans))
	}
	for i := range 2 {
		below(t, attempts[i], calls[i])
		below(t, served[i], attempts[i])
		if !served[i].Parent().IsRemote() {
			t.Error("the parent of the server's span is not remote")
		}
		wantValues(t, calls[i], map[string]string{
			"rpc.system.name": "grpc", "rpc.method": getSweet, "rpc.response.status_code": "OK",
			"server.address": "sweets", "server.port": "443", "error.type": "",
		})
		wantValues(t, attempts[i], map[string]string{"meshlite.attempt.number": "1", "rpc.response.status_code": "OK"})
		wantValues(t, served[i], map[string]string{"rpc.method": getSweet, "network.peer.address": "bufconn", "rpc.response.status_code": "OK"})
	}
	below(t, calls[0], served[1])
	below(t, calls[1], only(t, spans, "root", trace.SpanKindInternal))
	if inHandler != root.SpanContext().TraceID().String() {
		t.Errorf("the trace in the handler is %q", inHandler)
	}
}

// The semantic conventions for gRPC: every code is an error to the client, six are to
// the server.
//
// Case traces
func TestStatusByCode(t *testing.T) {
	server := map[codes.Code]bool{codes.Unknown: true, codes.DeadlineExceeded: true, codes.Unimplemented: true,
		codes.Internal: true, codes.Unavailable: true, codes.DataLoss: true, 99: true}
	for _, code := range []codes.Code{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 99} {
		w := newWorld(t, setup{})
		w.service.get = func(context.Context, *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
			return &catalogv1.GetSweetResponse{}, status.Error(code, strings.Repeat("é", 1000)+"\xff")
		}
		_ = w.get(t.Context(), "a")
		spans := w.settle()
		for _, side := range []struct {
			span   sdktrace.ReadOnlySpan
			failed bool
		}{
			{only(t, spans, getSweet, trace.SpanKindClient), code != codes.OK},
			{only(t, spans, "attempt "+getSweet, trace.SpanKindClient), code != codes.OK},
			{only(t, spans, getSweet, trace.SpanKindServer), server[code]},
		} {
			got := side.span.Status()
			if (got.Code == otelcodes.Error) != side.failed || (value(side.span, "error.type") != "") != side.failed {
				t.Errorf("%v: %v %s is %v", code, side.span.SpanKind(), side.span.Name(), got.Code)
			}
			if len(got.Description) > 256 {
				t.Errorf("%d bytes of the message are kept", len(got.Description))
			}
		}
		want := map[codes.Code]string{codes.OK: "OK", codes.Canceled: "CANCELLED", codes.NotFound: "NOT_FOUND", 99: "UNKNOWN"}[code]
		if got := value(only(t, spans, getSweet, trace.SpanKindServer), "rpc.response.status_code"); want != "" && got != want {
			t.Errorf("%v is written as %q, want %q", code, got, want)
		}
	}
}

// Case traces
func TestPanicsEndSpans(t *testing.T) {
	recovered, err := recovery.New()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, setup{server: []interceptors.Concern{recovered}})
	w.service.get = func(context.Context, *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) { panic("no") }
	_ = w.get(t.Context(), "a")
	wantValues(t, only(t, w.settle(), getSweet, trace.SpanKindServer), map[string]string{"rpc.response.status_code": "INTERNAL"})

	// And without recovery.
	policies, _ := interceptors.NewPolicies(nil)
	for name, call := range map[string]func(){
		"client": func() {
			_ = w.traced.UnaryClientInterceptor(policies)(t.Context(), "/"+getSweet, nil, nil, nil,
				func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { panic("no") })
		},
		"server": func() {
			_, _ = w.traced.UnaryServerInterceptor(policies)(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/" + getSweet},
				func(context.Context, any) (any, error) { panic("no") })
		},
		"stream of a client": func() {
			_, _ = w.traced.StreamClientInterceptor(policies)(t.Context(), &grpc.StreamDesc{}, nil, "/"+duplex,
				func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
					panic("no")
				})
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: the panic was swallowed", name)
				}
			}()
			call()
		}()
	}
	for _, span := range w.spans.Ended() {
		wantValues(t, span, map[string]string{"rpc.response.status_code": "INTERNAL"})
	}
	if begun, ended := len(w.spans.Started()), len(w.spans.Ended()); begun != ended {
		t.Errorf("%d spans have begun and %d ended", begun, ended)
	}
}

// Case traces
func TestEachRetryIsAnAttemptWithItsPushback(t *testing.T) {
	again, err := retry.New()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, setup{client: []interceptors.Concern{again}})
	calls := 0
	w.service.get = func(ctx context.Context, _ *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
		if calls++; calls == 1 {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", "7"))
			return nil, status.Error(codes.Unavailable, "busy")
		}
		return &catalogv1.GetSweetResponse{}, nil
	}
	if err := w.get(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	spans := w.settle()
	attempts, served := all(spans, "attempt "+getSweet, trace.SpanKindClient), all(spans, getSweet, trace.SpanKindServer)
	if len(attempts) != 2 || len(served) != 2 {
		t.Fatalf("spans are %v", names(spans))
	}
	call := only(t, spans, getSweet, trace.SpanKindClient)
	for i, attempt := range attempts {
		below(t, attempt, call)
		below(t, served[i], attempt)
	}
	wantValues(t, attempts[0], map[string]string{"meshlite.attempt.number": "1", "rpc.response.status_code": "UNAVAILABLE", "meshlite.retry.pushback_ms": "7"})
	wantValues(t, attempts[1], map[string]string{"meshlite.attempt.number": "2", "rpc.response.status_code": "OK", "meshlite.retry.pushback_ms": ""})
	wantValues(t, call, map[string]string{"rpc.response.status_code": "OK"})
}

// rerouted is a concern that routes calls to v2, and a retry to v1, as a picker may.
type rerouted struct{ stage interceptors.Stage }

func (r rerouted) Stage() interceptors.Stage { return r.stage }

func (rerouted) route(ctx context.Context, kind attempt.Kind) context.Context {
	ctx, record := attempt.FromOrNew(ctx, kind)
	arm, target := "v2", "dc1/catalog/v2"
	if record.Number() > 1 {
		arm, target = "v1", "dc1/catalog/v1"
	}
	record.SetRoute(&attempt.Route{Name: "route 1", Arm: arm, Target: "v2.catalog.default.default.dc1", Destination: target})
	return ctx
}

func (r rerouted) UnaryClient(*interceptors.CallMeta) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return invoker(r.route(ctx, attempt.Unary), method, req, reply, cc, opts...)
	}
}

func (r rerouted) StreamClient(*interceptors.CallMeta) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return streamer(r.route(ctx, attempt.Stream), desc, cc, method, opts...)
	}
}

// The span of a call has the route of its last attempt.
//
// Case traces
func TestCallsAndAttemptsHaveTheirRoute(t *testing.T) {
	again, err := retry.New()
	if err != nil {
		t.Fatal(err)
	}
	// One routes calls, the other attempts.
	w := newWorld(t, setup{client: []interceptors.Concern{rerouted{interceptors.Routing}, again, rerouted{interceptors.RateLimit}}})
	calls := 0
	w.service.get = func(context.Context, *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
		if calls++; calls == 1 {
			return nil, status.Error(codes.Unavailable, "busy")
		}
		return &catalogv1.GetSweetResponse{}, nil
	}
	if err := w.get(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	stream := w.open(t.Context(), t)
	_ = stream.CloseSend()
	_, _ = stream.Recv()
	spans := w.settle()
	to := func(version string) map[string]string {
		return map[string]string{"meshlite.route.name": "route 1", "meshlite.route.arm": version, "meshlite.route.target": "dc1/catalog/" + version}
	}
	attempts := all(spans, "attempt "+getSweet, trace.SpanKindClient)
	if len(attempts) != 2 {
		t.Fatalf("spans are %v", names(spans))
	}
	wantValues(t, attempts[0], to("v2"))
	wantValues(t, attempts[1], to("v1"))
	wantValues(t, only(t, spans, getSweet, trace.SpanKindClient), to("v1"))
	wantValues(t, only(t, spans, "attempt "+duplex, trace.SpanKindClient), to("v2"))
	wantValues(t, only(t, spans, duplex, trace.SpanKindClient), to("v2"))
	wantValues(t, all(spans, getSweet, trace.SpanKindServer)[0], map[string]string{"meshlite.route.name": ""})
}

// Case traces
func TestCallsHaveTheCacheResult(t *testing.T) {
	answers, err := cache.New()
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Close()
	w := newWorld(t, setup{
		client: []interceptors.Concern{answers},
		policy: &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{Ttl: ptr("1h"), StaleIfError: ptr("1h")}},
	})
	ctx := t.Context()
	results := map[string]int{}
	for _, id := range []string{"a", "a"} {
		if err := w.get(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.get(metadata.AppendToOutgoingContext(ctx, "cache-control", "no-store"), "a")
	_ = w.get(metadata.AppendToOutgoingContext(ctx, "cache-control", "max-stale"), "a")
	spans := w.settle()
	for _, call := range all(spans, getSweet, trace.SpanKindClient) {
		results[value(call, "meshlite.cache.result")]++
	}
	if results["miss"] != 1 || results["bypass"] != 1 || results["hit"] != 2 {
		t.Errorf("results are %v", results)
	}
	if got := len(all(spans, "attempt "+getSweet, trace.SpanKindClient)); got != 2 {
		t.Errorf("%d attempts, want one for each miss and bypass", got)
	}
}

func TestHandledCallsHaveTheCacheResultAndTheLimit(t *testing.T) {
	answers, err := cache.New()
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Close()
	limiter, err := ratelimit.New()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, setup{server: []interceptors.Concern{limiter, answers}, policy: &policyv1.MethodPolicy{
		Cache:      &policyv1.CacheRule{Ttl: ptr("1h"), Side: policyv1.Side_SIDE_SERVER},
		RateLimits: []*policyv1.RateLimitRule{{Name: "all", Limit: ptr(uint64(2)), Burst: ptr(uint64(2)), Period: ptr("1h")}},
	}})
	for range 3 {
		_ = w.get(t.Context(), "a")
	}
	served := all(w.settle(), getSweet, trace.SpanKindServer)
	for i, want := range []map[string]string{
		{"meshlite.cache.result": "miss", "meshlite.ratelimit.result": "admitted", "error.type": ""},
		{"meshlite.cache.result": "hit", "meshlite.ratelimit.result": "admitted", "error.type": ""},
		{"meshlite.cache.result": "", "meshlite.ratelimit.result": "refused", "meshlite.ratelimit.limit": "all", "error.type": ""},
	} {
		wantValues(t, served[i], want)
	}
}

// Two concurrent identical calls make one attempt, and both spans have the cache's result.
//
// Case traces
func TestACoalescedCallIsMarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers, err := cache.New()
		if err != nil {
			t.Fatal(err)
		}
		defer answers.Close()
		spans := tracetest.NewSpanRecorder()
		traced := newTracing(t, tracing.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
		client := chain(t, interceptors.Client, nil, traced, answers).UnaryClient()
		release := make(chan struct{})
		var calls sync.WaitGroup
		for range 2 {
			calls.Go(func() {
				_ = client(t.Context(), "/"+getSweet, &catalogv1.GetSweetRequest{Id: "a"}, &catalogv1.GetSweetResponse{}, nil,
					func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
						<-release
						return nil
					})
			})
		}
		synctest.Wait()
		close(release)
		calls.Wait()
		results := map[string]int{}
		for _, call := range all(spans.Ended(), getSweet, trace.SpanKindClient) {
			results[value(call, "meshlite.cache.result")]++
		}
		if results["miss"] != 1 || results["coalesced"] != 1 || len(spans.Ended()) != 3 {
			t.Errorf("results are %v, spans %v", results, names(spans.Ended()))
		}
	})
}

// What is refreshed behind a stale answer is an attempt of the call that has caused it,
// and adds no event to its span.
//
// Case traces
func TestARefreshIsBelowTheCallThatCausedIt(t *testing.T) {
	answers, err := cache.New()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, setup{
		client: []interceptors.Concern{answers},
		policy: &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{Ttl: ptr("1ms"), StaleWhileRevalidate: ptr("1h")}},
	})
	for range 2 {
		if err := w.get(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		for i := 0; i < 1000 && len(all(w.spans.Ended(), "attempt "+getSweet, trace.SpanKindClient)) < 2; i++ {
			_ = w.get(t.Context(), "a")
		}
	}
	answers.Close()
	stale := map[trace.SpanID]bool{}
	spans := w.settle()
	for _, call := range all(spans, getSweet, trace.SpanKindClient) {
		if value(call, "meshlite.cache.result") == "stale" {
			stale[call.SpanContext().SpanID()] = true
		}
	}
	refreshes := 0
	for _, attempt := range all(spans, "attempt "+getSweet, trace.SpanKindClient) {
		if stale[attempt.Parent().SpanID()] {
			refreshes++
		}
	}
	if refreshes == 0 {
		t.Errorf("no refresh is below a stale call: %v", names(spans))
	}
}

// Case traces
func TestCallsHaveTheLimitThatRefused(t *testing.T) {
	limiter, err := ratelimit.New()
	if err != nil {
		t.Fatal(err)
	}
	limit := &policyv1.MethodPolicy{RateLimits: []*policyv1.RateLimitRule{{
		Name: "all", Limit: ptr(uint64(1)), Burst: ptr(uint64(1)), Period: ptr("1h"), Side: policyv1.Side_SIDE_CLIENT}}}
	w := newWorld(t, setup{client: []interceptors.Concern{limiter}, policy: limit})
	_ = w.get(t.Context(), "a")
	_ = w.get(t.Context(), "a")
	spans := w.settle()
	calls := all(spans, getSweet, trace.SpanKindClient)
	wantValues(t, calls[0], map[string]string{"meshlite.ratelimit.limit": "all", "meshlite.ratelimit.result": "admitted"})
	wantValues(t, calls[1], map[string]string{"meshlite.ratelimit.limit": "all", "meshlite.ratelimit.result": "refused", "error.type": "RESOURCE_EXHAUSTED"})
	if attempts := all(spans, "attempt "+getSweet, trace.SpanKindClient); len(attempts) != 2 {
		t.Errorf("spans are %v", names(spans))
	}
}

// Case traces
func TestBaggageAndTracestateTravel(t *testing.T) {
	w := newWorld(t, setup{})
	var got string
	w.service.get = func(ctx context.Context, _ *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
		got = baggage.FromContext(ctx).Member("customer").Value() + " " + trace.SpanContextFromContext(ctx).TraceState().String()
		return nil, errors.New("no")
	}
	state, _ := trace.ParseTraceState("shop=1")
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state})
	bag, err := baggage.Parse("customer=charlie%20b")
	if err != nil {
		t.Fatal(err)
	}
	ctx := baggage.ContextWithBaggage(trace.ContextWithSpanContext(t.Context(), parent), bag)
	// A handler that passes its metadata on as it came does not lead elsewhere.
	ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	_ = w.get(ctx, "a")
	if got != "charlie b shop=1" {
		t.Errorf("the handler sees %q", got)
	}
	for _, span := range w.settle() {
		if span.SpanContext().TraceID() != parent.TraceID() {
			t.Errorf("%s is of another trace", span.Name())
		}
	}
}

// A peer can make up any number of methods: they are spans of one name.
//
// Case traces
func TestUnknownMethodsHaveOneName(t *testing.T) {
	w := newWorld(t, setup{})
	long := "/made.Up/" + strings.Repeat("x", 1000)
	_ = w.conn.Invoke(t.Context(), long, &catalogv1.GetSweetRequest{}, &catalogv1.GetSweetResponse{})
	span := only(t, w.settle(), "_OTHER", trace.SpanKindServer)
	wantValues(t, span, map[string]string{"rpc.method": "_OTHER", "rpc.method_original": long[1:257]})
}
