package tracing_test

import (
	"context"
	"fmt"
	"net"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/tracing"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	getSweet = "sweetshop.catalog.v1.CatalogService/GetSweet"
	duplex   = "grpc.testing.TestService/FullDuplexCall"
)

// service answers by its functions; those that are nil echo.
type service struct {
	catalogv1.UnimplementedCatalogServiceServer
	testgrpc.UnimplementedTestServiceServer
	get    func(context.Context, *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error)
	stream func(grpc.BidiStreamingServer[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]) error
}

func (s *service) GetSweet(ctx context.Context, req *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	if s.get != nil {
		return s.get(ctx, req)
	}
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: req.GetId()}}, nil
}

func (s *service) FullDuplexCall(stream grpc.BidiStreamingServer[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]) error {
	if s.stream != nil {
		return s.stream(stream)
	}
	for {
		if _, err := stream.Recv(); err != nil {
			return nil
		}
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
}

// world is a client and a server that are traced by one provider.
type world struct {
	t        testing.TB
	spans    *tracetest.SpanRecorder
	provider *sdktrace.TracerProvider
	traced   *tracing.Tracing
	service  *service
	server   *grpc.Server
	conn     *grpc.ClientConn
	catalog  catalogv1.CatalogServiceClient
	test     testgrpc.TestServiceClient
}

type setup struct {
	sampler        sdktrace.Sampler
	policy         *policyv1.MethodPolicy // of GetSweet
	client, server []interceptors.Concern
	options        []tracing.Option
}

func newWorld(t testing.TB, s setup) *world {
	t.Helper()
	if s.sampler == nil {
		s.sampler = sdktrace.AlwaysSample()
	}
	w := &world{t: t, spans: tracetest.NewSpanRecorder(), service: &service{}}
	w.provider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(w.spans), sdktrace.WithSampler(s.sampler))
	w.traced = newTracing(t, append([]tracing.Option{tracing.WithTracerProvider(w.provider)}, s.options...)...)
	server := chain(t, interceptors.Server, s.policy, append([]interceptors.Concern{w.traced}, s.server...)...)
	w.server = grpc.NewServer(append(server.ServerOptions(),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return nil }))...)
	catalogv1.RegisterCatalogServiceServer(w.server, w.service)
	testgrpc.RegisterTestServiceServer(w.server, w.service)
	listener := bufconn.Listen(1 << 16)
	go func() { _ = w.server.Serve(listener) }()
	t.Cleanup(w.server.Stop)
	client := chain(t, interceptors.Client, s.policy, append([]interceptors.Concern{w.traced}, s.client...)...)
	w.conn = dial(t, listener, client.DialOptions()...)
	w.catalog, w.test = catalogv1.NewCatalogServiceClient(w.conn), testgrpc.NewTestServiceClient(w.conn)
	return w
}

func dial(t testing.TB, listener *bufconn.Listener, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///sweets:443", append(opts,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dialer(listener)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func newTracing(t testing.TB, opts ...tracing.Option) *tracing.Tracing {
	t.Helper()
	traced, err := tracing.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return traced
}

// chain has the policies of the contracts, and policy instead for GetSweet.
func chain(t testing.TB, side interceptors.Side, policy *policyv1.MethodPolicy, concerns ...interceptors.Concern) *interceptors.Chained {
	t.Helper()
	var builder *policyv1.ServicePolicy
	if policy != nil {
		builder = &policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"GetSweet": policy}}
	}
	policies, err := interceptors.NewPolicies(builder)
	if err != nil {
		t.Fatal(err)
	}
	chained, err := interceptors.Chain(side, policies, concerns...)
	if err != nil {
		t.Fatal(err)
	}
	return chained
}

// settle waits for all handlers to return and gives the spans, all of which have ended.
func (w *world) settle() []sdktrace.ReadOnlySpan {
	w.t.Helper()
	_ = w.conn.Close()
	w.server.GracefulStop()
	if begun, ended := len(w.spans.Started()), len(w.spans.Ended()); begun != ended {
		w.t.Errorf("%d spans have begun and %d ended", begun, ended)
	}
	return w.spans.Ended()
}

// only is the one span of a name and kind.
func only(t testing.TB, spans []sdktrace.ReadOnlySpan, name string, kind trace.SpanKind) sdktrace.ReadOnlySpan {
	t.Helper()
	found := all(spans, name, kind)
	if len(found) != 1 {
		t.Fatalf("%d spans %q of kind %v in %v, want 1", len(found), name, kind, names(spans))
	}
	return found[0]
}

func all(spans []sdktrace.ReadOnlySpan, name string, kind trace.SpanKind) (found []sdktrace.ReadOnlySpan) {
	for _, span := range spans {
		if span.Name() == name && span.SpanKind() == kind {
			found = append(found, span)
		}
	}
	return found
}

func names(spans []sdktrace.ReadOnlySpan) (all []string) {
	for _, span := range spans {
		all = append(all, fmt.Sprintf("%v %s", span.SpanKind(), span.Name()))
	}
	return all
}

// value is what an attribute says, "" for none.
func value(span sdktrace.ReadOnlySpan, key string) string {
	for _, a := range span.Attributes() {
		if a.Key == attribute.Key(key) {
			return a.Value.String()
		}
	}
	return ""
}

func wantValues(t testing.TB, span sdktrace.ReadOnlySpan, want map[string]string) {
	t.Helper()
	for key, text := range want {
		if got := value(span, key); got != text {
			t.Errorf("%s: %s is %q, want %q", span.Name(), key, got, text)
		}
	}
}

func below(t testing.TB, child, parent sdktrace.ReadOnlySpan) {
	t.Helper()
	if child.Parent().SpanID() != parent.SpanContext().SpanID() || child.SpanContext().TraceID() != parent.SpanContext().TraceID() {
		t.Errorf("%v %s is not below %v %s", child.SpanKind(), child.Name(), parent.SpanKind(), parent.Name())
	}
}

func dialer(listener *bufconn.Listener) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }
}
