package metrics_test

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors/metrics"
)

// M7, as far as the label goes: the class separates the caller's faults from failures.
//
// Case M7 (class): The class of a code separates the caller's fault and cancelled calls from failures.
func TestWhoseAffairAFailureIs(t *testing.T) {
	gaveUp, cancel := context.WithCancel(t.Context())
	cancel()
	ofServer := map[codes.Code]bool{
		codes.Unknown: true, codes.DeadlineExceeded: true, codes.Unimplemented: true,
		codes.Internal: true, codes.Unavailable: true, codes.DataLoss: true, 99: true,
	}
	for code := codes.OK; code <= 17; code++ {
		if code == 17 {
			code = 99
		}
		want := "client"
		switch {
		case code == codes.OK:
			want = "ok"
		case ofServer[code]:
			want = "server"
		}
		if got := classOf(t, t.Context(), code); got != want {
			t.Errorf("%v is %q, want %q", code, got, want)
		}
		if code == codes.OK {
			continue
		}
		if got := classOf(t, gaveUp, code); got != "client" {
			t.Errorf("%v of a caller who gave up is %q, want the client's", code, got)
		}
	}
}

// classOf is how a call that ends with code is counted, in all series.
func classOf(t *testing.T, ctx context.Context, code codes.Code) string {
	t.Helper()
	registry := prometheus.NewRegistry()
	m := newMetrics(t, metrics.WithRegisterer(registry))
	info := &grpc.UnaryServerInfo{FullMethod: method}
	_, _ = m.UnaryServerInterceptor()(ctx, nil, info, func(ctx context.Context, _ any) (any, error) {
		return m.Handlers().UnaryServer(meta)(ctx, nil, info, func(context.Context, any) (any, error) {
			return nil, status.Error(code, "")
		})
	})
	for _, class := range []string{"ok", "client", "server"} {
		found := 0.0
		for _, name := range []string{"grpc_server_handled_total", "grpc_server_handling_seconds", "meshlite_handler_seconds"} {
			found += sum(t, registry, name, "code_class", class)
		}
		if found == 3 {
			return class
		}
	}
	return "not in all three"
}

// A native histogram, and the classic one for those who do not ask for it.
//
// Case metrics
func TestHistogramsAreNativeAndClassic(t *testing.T) {
	registry := prometheus.NewRegistry()
	serve(t, newMetrics(t, metrics.WithRegisterer(registry)), method)
	h := histogram(t, registry, "grpc_server_handling_seconds")
	if len(h.GetPositiveSpan()) == 0 || h.GetSchema() != 3 {
		t.Errorf("schema %d with %d spans, want a native histogram", h.GetSchema(), len(h.GetPositiveSpan()))
	}
	if buckets := h.GetBucket(); len(buckets) != 19 || buckets[0].GetUpperBound() != 1e-5 || buckets[18].GetUpperBound() != 10 {
		t.Errorf("classic buckets %v, want 10 us to 10 s", buckets)
	}
}
