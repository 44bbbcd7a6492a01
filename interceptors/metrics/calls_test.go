package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/metrics"
	"github.com/meshlite-go/meshlite/interceptors/recovery"
)

// classes are those of the codes that the tests meet.
var classes = map[string]string{"OK": "ok", "NotFound": "client", "Canceled": "client", "Unknown": "server", "Internal": "server"}

// M2: started = handled + in flight after panic, cancel, abandoned stream,
// double EOF.
//
// Case M2: Started = handled + in flight.
func TestStartedIsHandledPlusInFlight(t *testing.T) {
	waits := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	tests := []struct {
		name    string
		service service
		call    func(*testing.T, *world)
		client  string // code of the client
		server  string
	}{
		{"answer", service{}, unaryCall, "OK", "OK"},
		{"failure", service{unary: func(context.Context) error { return status.Error(codes.NotFound, "no") }}, unaryCall, "NotFound", "NotFound"},
		{"error without status", service{unary: func(context.Context) error { return errors.New("no") }}, unaryCall, "Unknown", "Unknown"},
		{"code that gRPC does not know", service{unary: func(context.Context) error { return status.Error(99, "no") }}, unaryCall, "Unknown", "Unknown"},
		{"panic", service{unary: func(context.Context) error { panic("no") }}, unaryCall, "Internal", "Internal"},
		{"cancel", service{unary: waits}, cancelledCall, "Canceled", "Canceled"},
		{"server stream", service{}, readStream, "OK", "OK"},
		{"double EOF", service{}, readStreamPastEnd, "OK", "OK"},
		{"panic in a stream", service{serverStream: func(grpc.ServerStreamingServer[testgrpc.StreamingOutputCallResponse]) error { panic("no") }}, readStream, "Internal", "Internal"},
		{"client stream", service{}, sendStream, "OK", "OK"},
		{"abandoned stream, cancelled", service{}, cancelledStream, "Canceled", "OK"},
		{"abandoned stream, channel closed", service{}, abandonedStream, "Canceled", "OK"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			recovered, err := recovery.New(recovery.WithLogger(slog.New(slog.DiscardHandler)))
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, &tt.service, recovered)
			tt.call(t, w)
			w.settle()
			for side, code := range map[string]string{"client": tt.client, "server": tt.server} {
				prefix := "grpc_" + side
				started, inFlight := sum(t, w.registry, prefix+"_started_total"), sum(t, w.registry, prefix+"_in_flight")
				handled := sum(t, w.registry, prefix+"_handled_total", "grpc_code", code)
				if started != 1 || inFlight != 0 || handled != 1 {
					t.Errorf("%s: started %v, in flight %v, handled with %s %v: want 1, 0, 1", side, started, inFlight, code, handled)
				}
				if all := sum(t, w.registry, prefix+"_handled_total"); all != 1 {
					t.Errorf("%s: handled %v, want 1", side, all)
				}
				if timed := sum(t, w.registry, prefix+"_handling_seconds", "code_class", classes[code]); timed != 1 {
					t.Errorf("%s: timed %v, want 1", side, timed)
				}
			}
		})
	}
}

func TestStreamUnderWayIsInFlight(t *testing.T) {
	w := newWorld(t, &service{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := w.client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, stream)
	for _, side := range []string{"client", "server"} {
		if got := sum(t, w.registry, "grpc_"+side+"_in_flight", "grpc_type", "bidi_stream"); got != 1 {
			t.Errorf("%s in flight: %v, want 1", side, got)
		}
	}
}

func TestMessagesAreCounted(t *testing.T) {
	tests := []struct {
		name               string
		call               func(*testing.T, *world)
		kind               string
		toServer, toClient float64
	}{
		{"unary", unaryCall, "unary", 1, 1},
		{"server stream", readStream, "server_stream", 1, 3},
		{"client stream", sendStream, "client_stream", 2, 1},
		{"bidirectional stream", abandonedStream, "bidi_stream", 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, &service{})
			tt.call(t, w)
			w.settle()
			for name, want := range map[string]float64{
				"grpc_client_msg_sent_total": tt.toServer, "grpc_server_msg_received_total": tt.toServer,
				"grpc_server_msg_sent_total": tt.toClient, "grpc_client_msg_received_total": tt.toClient,
			} {
				if got := sum(t, w.registry, name, "grpc_type", tt.kind); got != want {
					t.Errorf("%s: %v, want %v", name, got, want)
				}
			}
		})
	}
}

// M1: what a peer makes up reaches the metrics through UnknownServiceHandler.
//
// Case M1
func TestMadeUpMethodsOfAPeerAreCountedAsOther(t *testing.T) {
	w := newWorld(t, &service{})
	for i := range 300 {
		_ = w.conn.Invoke(t.Context(), fmt.Sprintf("/made.Up%d/Method", i), &testgrpc.SimpleRequest{}, &testgrpc.SimpleResponse{})
	}
	w.settle()
	all, other := sum(t, w.registry, "grpc_server_handled_total"), sum(t, w.registry, "grpc_server_handled_total", "grpc_method", "other")
	if all != 300 || other != 300 {
		t.Errorf("handled %v, as other %v: want 300 of each", all, other)
	}
}

// Case metrics
func TestSizesOfMessagesAreMeasured(t *testing.T) {
	w := newWorld(t, &service{})
	request := &testgrpc.SimpleRequest{Payload: &testgrpc.Payload{Body: make([]byte, 5000)}}
	if _, err := w.client.UnaryCall(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	w.settle()
	for name, want := range map[string]float64{
		"grpc_client_msg_sent_bytes": float64(proto.Size(request)), "grpc_server_msg_received_bytes": float64(proto.Size(request)),
		"grpc_server_msg_sent_bytes": 0, "grpc_client_msg_received_bytes": 0,
	} {
		h := histogram(t, w.registry, name)
		if h.GetSampleCount() != 1 || h.GetSampleSum() != want {
			t.Errorf("%s: %d messages of %v bytes, want 1 of %v", name, h.GetSampleCount(), h.GetSampleSum(), want)
		}
	}
}

func unaryCall(t *testing.T, w *world) {
	_, _ = w.client.UnaryCall(t.Context(), &testgrpc.SimpleRequest{})
}

func cancelledCall(t *testing.T, w *world) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = w.client.UnaryCall(ctx, &testgrpc.SimpleRequest{})
	}()
	for sum(t, w.registry, "grpc_server_in_flight") == 0 {
	}
	cancel()
	<-done
}

func readStream(t *testing.T, w *world) {
	stream, err := w.client.StreamingOutputCall(t.Context(), &testgrpc.StreamingOutputCallRequest{})
	for err == nil {
		_, err = stream.Recv()
	}
}

func readStreamPastEnd(t *testing.T, w *world) {
	stream, err := w.client.StreamingOutputCall(t.Context(), &testgrpc.StreamingOutputCallRequest{})
	for err == nil {
		_, err = stream.Recv()
	}
	for range 3 {
		if _, err := stream.Recv(); err != io.EOF {
			t.Fatalf("after the end: %v, want EOF", err)
		}
	}
}

func sendStream(t *testing.T, w *world) {
	stream, err := w.client.StreamingInputCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := stream.Send(&testgrpc.StreamingInputCallRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
}

func cancelledStream(t *testing.T, w *world) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := w.client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, stream)
	cancel()
	for sum(t, w.registry, "grpc_client_in_flight") != 0 {
	}
}

// abandonedStream leaves the stream to the end of the channel.
func abandonedStream(t *testing.T, w *world) {
	stream, err := w.client.FullDuplexCall(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	echo(t, stream)
	_ = w.conn.Close()
	for sum(t, w.registry, "grpc_client_in_flight") != 0 {
	}
}

func echo(t *testing.T, stream grpc.BidiStreamingClient[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]) {
	t.Helper()
	if err := stream.Send(&testgrpc.StreamingOutputCallRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
}

// M1: what peers say of themselves, and where they come from, makes no series.
//
// Case M1
func TestUserAgentsAndPeersMakeNoSeries(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMetrics(t, metrics.WithRegisterer(registry))
	policies, err := interceptors.NewPolicies(nil)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := interceptors.Chain(interceptors.Server, policies, m)
	if err != nil {
		t.Fatal(err)
	}
	part := chain.UnaryServer()
	series := func() (n int) {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			n += len(family.GetMetric())
		}
		return n
	}
	var first int
	const calls = 10_000
	for i := range calls {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("user-agent", fmt.Sprint("made-up/", i), ":authority", fmt.Sprint("host-", i), "x-user", fmt.Sprint(i)))
		ctx = peer.NewContext(ctx, &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, byte(i>>8), byte(i)), Port: i + 1}})
		if _, err := part(ctx, &testgrpc.SimpleRequest{}, &grpc.UnaryServerInfo{FullMethod: testgrpc.TestService_UnaryCall_FullMethodName},
			func(context.Context, any) (any, error) { return &testgrpc.SimpleResponse{}, nil }); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = series()
		}
	}
	if n := series(); n != first || n == 0 {
		t.Errorf("%d series after %d peers, %d after the first", n, calls, first)
	}
	if n := sum(t, registry, "grpc_server_handled_total"); n != calls {
		t.Errorf("%v calls are counted, want %d", n, calls)
	}
}
