package tracing_test

import (
	"context"
	"io"
	"testing"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/tracing"
)

type duplexServer = grpc.BidiStreamingServer[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]

// A span ends with its stream, whoever ends that and however.
//
// Case traces
func TestSpansEndWithTheirStreams(t *testing.T) {
	tests := []struct {
		name           string
		serve          func(duplexServer) error
		call           func(*testing.T, *world)
		client, server string
	}{
		{"read to the end", nil, func(t *testing.T, w *world) {
			stream := w.open(t.Context(), t)
			_ = stream.CloseSend()
			for range 3 {
				if _, err := stream.Recv(); err != io.EOF {
					t.Fatal(err)
				}
			}
		}, "OK", "OK"},
		{"failed", func(duplexServer) error { return status.Error(codes.NotFound, "no") }, func(t *testing.T, w *world) {
			stream, err := w.test.FullDuplexCall(t.Context())
			if err == nil {
				_, _ = stream.Recv()
			}
		}, "NOT_FOUND", "NOT_FOUND"},
		{"panicked", func(stream duplexServer) error { panic("no") }, func(t *testing.T, w *world) {
			stream, err := w.test.FullDuplexCall(t.Context())
			if err == nil {
				_, _ = stream.Recv()
			}
		}, "INTERNAL", "INTERNAL"},
		{"cancelled and abandoned", nil, func(t *testing.T, w *world) {
			ctx, cancel := context.WithCancel(t.Context())
			w.open(ctx, t)
			cancel()
			w.until(2)
		}, "CANCELLED", "OK"},
		{"abandoned, the channel closes", nil, func(t *testing.T, w *world) {
			w.open(context.Background(), t)
			_ = w.conn.Close()
			w.until(2)
		}, "CANCELLED", "OK"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, setup{server: []interceptors.Concern{recovering{}}})
			w.service.stream = tt.serve
			tt.call(t, w)
			spans := w.settle()
			call, attempt := only(t, spans, duplex, trace.SpanKindClient), only(t, spans, "attempt "+duplex, trace.SpanKindClient)
			served := only(t, spans, duplex, trace.SpanKindServer)
			below(t, attempt, call)
			below(t, served, attempt)
			if call.EndTime().Before(attempt.EndTime()) {
				t.Error("the attempt ends after the call")
			}
			for span, want := range map[string]string{"client": tt.client, "attempt": tt.client, "server": tt.server} {
				got := map[string]string{"client": value(call, "rpc.response.status_code"), "attempt": value(attempt, "rpc.response.status_code"),
					"server": value(served, "rpc.response.status_code")}[span]
				if got != want {
					t.Errorf("%s: %q, want %q", span, got, want)
				}
			}
		})
	}
}

// recovering turns panics into INTERNAL.
type recovering struct{}

func (recovering) Stage() interceptors.Stage { return interceptors.Recovery }

func (recovering) StreamServer(*interceptors.CallMeta) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		defer func() {
			if recover() != nil {
				err = status.Error(codes.Internal, "panic")
			}
		}()
		return handler(srv, stream)
	}
}

// open begins a stream and exchanges one message.
func (w *world) open(ctx context.Context, t *testing.T) grpc.BidiStreamingClient[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse] {
	t.Helper()
	stream, err := w.test.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&testgrpc.StreamingOutputCallRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	return stream
}

// until n spans of the client have ended.
func (w *world) until(n int) {
	for len(all(w.spans.Ended(), duplex, trace.SpanKindClient))+len(all(w.spans.Ended(), "attempt "+duplex, trace.SpanKindClient)) < n {
	}
}

func TestHandlersOfStreamsHaveTheTrace(t *testing.T) {
	w := newWorld(t, setup{})
	id := make(chan string, 1)
	w.service.stream = func(stream duplexServer) error { id <- tracing.TraceID(stream.Context()); return nil }
	stream, err := w.test.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Fatal(err)
	}
	if got, want := <-id, only(t, w.settle(), duplex, trace.SpanKindServer).SpanContext().TraceID().String(); got != want {
		t.Errorf("the trace is %q, want %q", got, want)
	}
}

// answered is a stream that an interceptor further in answers without gRPC.
type answered struct{ grpc.ClientStream }

func (answered) RecvMsg(any) error { return io.EOF }

func TestAStreamThatGRPCDoesNotEndIsEnded(t *testing.T) {
	w := newWorld(t, setup{})
	client := chain(t, interceptors.Client, nil, w.traced).StreamClient()
	stream, err := client(t.Context(), &grpc.StreamDesc{ServerStreams: true}, nil, "/"+duplex,
		func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
			return answered{}, nil
		})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := stream.RecvMsg(nil); err != io.EOF {
			t.Fatal(err)
		}
	}
	if spans := w.settle(); len(spans) != 2 {
		t.Errorf("spans are %v", names(spans))
	}
}
