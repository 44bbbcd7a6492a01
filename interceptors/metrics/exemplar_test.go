package metrics_test

import (
	"context"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors/metrics"
)

const trace = "4bf92f3577b34da6a3ce929d0e0e4736"

// Case metrics
func TestSampledCallsLeadToTheirTrace(t *testing.T) {
	tests := map[string]struct {
		trace func(context.Context) (string, bool)
		want  string
	}{
		"sampled":     {func(context.Context) (string, bool) { return trace, true }, trace},
		"not sampled": {func(context.Context) (string, bool) { return trace, false }, ""},
		"no trace":    {func(context.Context) (string, bool) { return "", true }, ""},
		"too long":    {func(context.Context) (string, bool) { return strings.Repeat("a", 65), true }, ""},
		"no text":     {func(context.Context) (string, bool) { return "\xff", true }, ""},
		"panic":       {func(context.Context) (string, bool) { panic("no span") }, ""},
		"none":        {nil, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			m := newMetrics(t, metrics.WithRegisterer(registry)).WithExemplarFromContext(tt.trace)
			info := &grpc.UnaryServerInfo{FullMethod: method}
			_, _ = m.UnaryServer(meta)(t.Context(), request, info, handler)
			_, _ = m.Handlers().UnaryServer(meta)(t.Context(), request, info, handler)
			_ = m.UnaryClient(meta)(t.Context(), method, request, reply, nil, invoker)
			desc := &grpc.StreamDesc{ServerStreams: true}
			opened, err := m.StreamClient(meta)(t.Context(), desc, nil, method,
				func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
					return answered{}, nil
				})
			if err != nil {
				t.Fatal(err)
			}
			_ = opened.RecvMsg(nil)
			_ = m.StreamServer(meta)(m, stream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: method, IsServerStream: true},
				func(any, grpc.ServerStream) error { return nil })
			found := exemplars(t, registry)
			want := 0
			if tt.want != "" {
				want = 5
			}
			if len(found) != want {
				t.Errorf("%d exemplars, want %d", len(found), want)
			}
			for _, e := range found {
				if l := e.GetLabel(); len(l) != 1 || l[0].GetName() != "trace_id" || l[0].GetValue() != tt.want {
					t.Errorf("the exemplar is %v", e)
				}
			}
		})
	}
}

// exemplars are those of all histograms.
func exemplars(t *testing.T, registry *prometheus.Registry) []*dto.Exemplar {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []*dto.Exemplar
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			for _, bucket := range metric.GetHistogram().GetBucket() {
				if bucket.GetExemplar() != nil {
					all = append(all, bucket.GetExemplar())
				}
			}
		}
	}
	return all
}
