package metrics_test

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/metrics"
)

// M4, as far as the chain goes: what is answered before it comes to the handler is a call
// and no work of the handler.
//
// Case M4
func TestOnlyWorkOfTheHandlerIsItsTime(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMetrics(t, metrics.WithRegisterer(registry))
	policies, err := interceptors.NewPolicies(nil)
	if err != nil {
		t.Fatal(err)
	}
	served := true
	cached := interceptors.Interceptors{UnaryServerInterceptor: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if served {
			return reply, nil
		}
		return next(ctx, req)
	}}
	chain, err := interceptors.Chain(interceptors.Server, policies, m, cached, m.Handlers())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, _ = chain.UnaryServer()(t.Context(), request, &grpc.UnaryServerInfo{FullMethod: method}, handler)
		served = false
	}
	panics := func(context.Context, any) (any, error) { panic("no") }
	func() {
		defer func() { _ = recover() }()
		_, _ = chain.UnaryServer()(t.Context(), request, &grpc.UnaryServerInfo{FullMethod: method}, panics)
	}()
	if calls, work := sum(t, registry, "grpc_server_handled_total"), sum(t, registry, "meshlite_handler_seconds", "code_class", "ok"); calls != 4 || work != 2 {
		t.Errorf("%v calls of which the handler answered %v, want 4 and 2", calls, work)
	}
	if failed := sum(t, registry, "meshlite_handler_seconds", "code_class", "server"); failed != 1 {
		t.Errorf("%v failures of the handler, want its panic", failed)
	}
}

func TestStreamsAreWorkOfTheHandler(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMetrics(t, metrics.WithRegisterer(registry))
	w := newWorld(t, &service{}, m.Handlers())
	readStream(t, w)
	w.settle()
	if n := sum(t, registry, "meshlite_handler_seconds", "grpc_type", "server_stream", "code_class", "ok"); n != 1 {
		t.Errorf("%v streams handled, want 1", n)
	}
}
