package metrics_test

import (
	"context"
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service answers by its functions; those that are nil echo.
type service struct {
	testgrpc.UnimplementedTestServiceServer
	unary        func(context.Context) error
	serverStream func(grpc.ServerStreamingServer[testgrpc.StreamingOutputCallResponse]) error
	bidi         func(grpc.BidiStreamingServer[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]) error
}

func (s *service) UnaryCall(ctx context.Context, _ *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	if s.unary != nil {
		if err := s.unary(ctx); err != nil {
			return nil, err
		}
	}
	return &testgrpc.SimpleResponse{}, nil
}

func (s *service) StreamingOutputCall(_ *testgrpc.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[testgrpc.StreamingOutputCallResponse]) error {
	if s.serverStream != nil {
		return s.serverStream(stream)
	}
	for range 3 {
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
	return nil
}

func (s *service) StreamingInputCall(stream grpc.ClientStreamingServer[testgrpc.StreamingInputCallRequest, testgrpc.StreamingInputCallResponse]) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return stream.SendAndClose(&testgrpc.StreamingInputCallResponse{})
		}
	}
}

func (s *service) FullDuplexCall(stream grpc.BidiStreamingServer[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]) error {
	if s.bidi != nil {
		return s.bidi(stream)
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

// world is a server and a channel, measured into one registry.
type world struct {
	registry *prometheus.Registry
	server   *grpc.Server
	conn     *grpc.ClientConn
	client   testgrpc.TestServiceClient
}

// newWorld puts inner inside the metrics on the server.
func newWorld(t *testing.T, s *service, inner ...interceptors.Concern) *world {
	t.Helper()
	w := &world{registry: prometheus.NewRegistry()}
	measured := newMetrics(t, metrics.WithRegisterer(w.registry))
	policies, err := interceptors.NewPolicies(nil)
	if err != nil {
		t.Fatal(err)
	}
	client, err := interceptors.Chain(interceptors.Client, policies, measured)
	if err != nil {
		t.Fatal(err)
	}
	server, err := interceptors.Chain(interceptors.Server, policies, append([]interceptors.Concern{measured}, inner...)...)
	if err != nil {
		t.Fatal(err)
	}
	w.server = grpc.NewServer(append(server.ServerOptions(), grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return nil }))...)
	testgrpc.RegisterTestServiceServer(w.server, s)
	listener := bufconn.Listen(1 << 16)
	go func() { _ = w.server.Serve(listener) }()
	t.Cleanup(w.server.Stop)
	w.conn, err = grpc.NewClient("passthrough:///bufconn", append(client.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.conn.Close() })
	w.client = testgrpc.NewTestServiceClient(w.conn)
	return w
}

// settle waits for all handlers to return.
func (w *world) settle() {
	_ = w.conn.Close()
	w.server.GracefulStop()
}

func newMetrics(t testing.TB, opts ...metrics.Option) *metrics.Metrics {
	t.Helper()
	m, err := metrics.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// sum adds the samples of a metric whose labels include those given as pairs.
func sum(t *testing.T, registry *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var total float64
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == name && has(metric, labels) {
				total += metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			}
		}
	}
	return total
}

// histogram is the one series of a histogram.
func histogram(t *testing.T, registry *prometheus.Registry, name string) *dto.Histogram {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name && len(family.GetMetric()) == 1 {
			return family.GetMetric()[0].GetHistogram()
		}
	}
	t.Fatalf("%s is not there once", name)
	return nil
}

// stream is one that only has a context.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

func has(metric *dto.Metric, labels []string) bool {
	for i := 0; i < len(labels); i += 2 {
		found := false
		for _, pair := range metric.GetLabel() {
			found = found || pair.GetName() == labels[i] && pair.GetValue() == labels[i+1]
		}
		if !found {
			return false
		}
	}
	return true
}

// verdict is the event of a rate limit.
type verdict struct{ limit, result string }

func (verdict) Stage() interceptors.Stage { return interceptors.RateLimit }
func (v verdict) Limit() string           { return v.limit }
func (v verdict) Result() string          { return v.result }
func (verdict) Decides() bool             { return true }
