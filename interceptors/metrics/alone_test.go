package metrics_test

import (
	"context"
	"io"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors/metrics"
)

const method = "/sweetshop.catalog.v1.CatalogService/GetSweet"

// M2, without a recovery further in: the panic goes on and is counted.
//
// Case M2
func TestPanicThatPassesThroughIsCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMetrics(t, metrics.WithRegisterer(registry))
	desc := &grpc.StreamDesc{ServerStreams: true}
	calls := map[string]func(){
		"grpc_server unary": func() {
			_, _ = m.UnaryServerInterceptor()(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: method},
				func(context.Context, any) (any, error) { panic("no") })
		},
		"grpc_server server_stream": func() {
			_ = m.StreamServerInterceptor()(nil, stream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: method, IsServerStream: true},
				func(any, grpc.ServerStream) error { panic("no") })
		},
		"grpc_client unary": func() {
			_ = m.UnaryClientInterceptor()(t.Context(), method, nil, nil, nil,
				func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { panic("no") })
		},
		"grpc_client server_stream": func() {
			_, _ = m.StreamClientInterceptor()(t.Context(), desc, nil, method,
				func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
					panic("no")
				})
		},
	}
	for name, call := range calls {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: the panic was swallowed", name)
				}
			}()
			call()
		}()
	}
	for _, side := range []string{"grpc_server", "grpc_client"} {
		for _, kind := range []string{"unary", "server_stream"} {
			handled := sum(t, registry, side+"_handled_total", "grpc_type", kind, "grpc_code", "Internal")
			inFlight := sum(t, registry, side+"_in_flight", "grpc_type", kind)
			if handled != 1 || inFlight != 0 {
				t.Errorf("%s %s: handled %v, in flight %v: want 1, 0", side, kind, handled, inFlight)
			}
		}
	}
}

// answered is a stream that an interceptor further in answers without gRPC.
type answered struct{ grpc.ClientStream }

func (answered) RecvMsg(any) error { return io.EOF }

// M2, with a stream that gRPC has no part in.
//
// Case M2
func TestStreamThatGRPCDoesNotEndIsCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMetrics(t, metrics.WithRegisterer(registry))
	stream, err := m.StreamClientInterceptor()(t.Context(), &grpc.StreamDesc{ServerStreams: true}, nil, method,
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
	if got := sum(t, registry, "grpc_client_handled_total", "grpc_code", "OK"); got != 1 {
		t.Errorf("handled %v, want 1", got)
	}
}
