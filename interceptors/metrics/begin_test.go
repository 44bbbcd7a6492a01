package metrics_test

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	"github.com/meshlite-go/meshlite/interceptors/metrics"
	"github.com/meshlite-go/meshlite/interceptors/retry"
)

// What a server serves is counted from 0 on, each method with its kind and all codes, and
// what alerts compare exists from the first event of a method on.
//
// Case M2 (from 0)
func TestCountersExistBeforeTheFirstEvent(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, err := metrics.New(metrics.WithRegisterer(registry))
	if err != nil {
		t.Fatal(err)
	}
	count := func(name string) int {
		n, err := testutil.GatherAndCount(registry, name)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	services := map[string]grpc.ServiceInfo{"a.B": {Methods: []grpc.MethodInfo{
		{Name: "Unary"}, {Name: "Up", IsClientStream: true}, {Name: "Down", IsServerStream: true}, {Name: "Both", IsClientStream: true, IsServerStream: true},
	}}}
	for range 2 { // again is no more
		m.Serves(services)
		for name, want := range map[string]int{
			"grpc_server_started_total": 4, "grpc_server_handled_total": 4 * 17, "meshlite_panics_total": 4,
			"grpc_server_handling_seconds": 0, "meshlite_ratelimit_requests_total": 0,
		} {
			if n := count(name); n != want {
				t.Errorf("%d series of %s, want %d", n, name, want)
			}
		}
	}
	// The first call is counted where it was begun.
	info := &grpc.UnaryServerInfo{FullMethod: "/a.B/Unary"}
	_, _ = m.UnaryServerInterceptor()(t.Context(), nil, info, func(context.Context, any) (any, error) { return nil, nil })
	if n := count("grpc_server_handled_total"); n != 4*17 {
		t.Errorf("%d series after a call, want those that were there", n)
	}
	meta := &interceptors.CallMeta{Side: interceptors.Server, FullMethod: "/a.B/Unary"}
	for _, e := range []interceptors.Event{
		verdict{"all", "admitted"}, concurrency.Admitted,
		&retry.Attempt{Code: codes.OK, Verdict: retry.Answered}, &retry.Attempt{Code: codes.Unavailable, Verdict: retry.Again},
	} {
		m.Observe(t.Context(), meta, e)
	}
	for name, want := range map[string]int{
		"meshlite_ratelimit_requests_total": 2, "meshlite_concurrency_requests_total": 2, "grpc_client_attempts_total": 3,
	} {
		if n := count(name); n != want {
			t.Errorf("%d series of %s, want %d: what is refused or overspent beside what came", n, name, want)
		}
	}
}
