package env_test

import (
	"context"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/tracing"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// A trace that a call belongs to goes on with it where spans are made, in W3C's form if
// the environment asks for no other, and where they are not but it is asked for.
func TestTracesGoOnWithTheCall(t *testing.T) {
	for name, test := range map[string]struct {
		variables map[string]string
		goesOn    bool
	}{
		"off":                   {nil, false},
		"on":                    {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, true},
		"on, nothing passed on": {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_PROPAGATORS": "none"}, false},
		"off, passing on":       {map[string]string{"OTEL_PROPAGATORS": "tracecontext"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			traced, err := tracing.New(set(t, test.variables).Options()...)
			if err != nil {
				t.Fatal(err)
			}
			chain, err := interceptors.Chain(interceptors.Client, policies(t), traced)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := grpc.NewClient("passthrough:///nobody", grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			from := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4}, Remote: true})
			var sent metadata.MD
			err = chain.UnaryClient()(trace.ContextWithRemoteSpanContext(t.Context(), from), "/a.B/C", nil, nil, conn,
				func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
					sent, _ = metadata.FromOutgoingContext(ctx)
					return nil
				})
			if err != nil {
				t.Fatal(err)
			}
			if goesOn := strings.Contains(strings.Join(sent.Get("traceparent"), " "), from.TraceID().String()); goesOn != test.goesOn {
				t.Errorf("the call carries %v: the trace goes on = %v, want %v", sent, goesOn, test.goesOn)
			}
		})
	}
}

func policies(t *testing.T) *interceptors.Policies {
	t.Helper()
	p, err := interceptors.NewPolicies(&policyv1.ServicePolicy{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}
