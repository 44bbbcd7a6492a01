package env_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/propagation"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/tracing"
	"github.com/meshlite-go/meshlite/interceptors/tracing/env"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func TestMain(m *testing.M) {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "OTEL_") {
			_ = os.Unsetenv(name)
		}
	}
	_ = os.Setenv("OTEL_SERVICE_NAME", "sweets") // the SDK reads it once
	_ = os.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
	goleak.VerifyTestMain(m)
}

func set(t *testing.T, variables map[string]string) *env.Telemetry {
	t.Helper()
	for name, value := range variables {
		t.Setenv(name, value)
	}
	telemetry, err := env.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := telemetry.Shutdown(context.Background()); err != nil { // the test's is over
			t.Error(err)
		}
	})
	return telemetry
}

// active reports whether a method would have a part in a chain.
func active(t *testing.T, telemetry *env.Telemetry) bool {
	t.Helper()
	traced, err := tracing.New(telemetry.Options()...)
	if err != nil {
		t.Fatal(err)
	}
	meta := &interceptors.CallMeta{Side: interceptors.Client, FullMethod: "/a.B/C", Policy: &policyv1.MethodPolicy{}}
	return traced.UnaryClient(meta) != nil
}

// Case traces
func TestTheEnvironmentTurnsItOn(t *testing.T) {
	tests := []struct {
		name            string
		variables       map[string]string
		enabled, active bool
	}{
		{"nothing is set", nil, false, false},
		{"endpoint", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, true, true},
		{"endpoint of traces", map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, true, true},
		{"over gRPC", map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, true, true},
		{"console", map[string]string{"OTEL_TRACES_EXPORTER": "console"}, true, true},
		{"none", map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, false, false},
		{"disabled", map[string]string{"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, false, false},
		{"disabled, passing on", map[string]string{"OTEL_SDK_DISABLED": "true", "OTEL_PROPAGATORS": "tracecontext"}, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			telemetry := set(t, tt.variables)
			if telemetry.Enabled() != tt.enabled || active(t, telemetry) != tt.active || telemetry.Active() != tt.active {
				t.Errorf("enabled %v, active %v: want %v, %v", telemetry.Enabled(), active(t, telemetry), tt.enabled, tt.active)
			}
			_, span := telemetry.TracerProvider().Tracer("test").Start(t.Context(), "a")
			if span.IsRecording() != tt.enabled {
				t.Errorf("a span records = %v", span.IsRecording())
			}
		})
	}
}

func TestUnknownValuesAreErrors(t *testing.T) {
	for name, value := range map[string]string{"OTEL_TRACES_EXPORTER": "pigeon", "OTEL_PROPAGATORS": "smoke"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			if _, err := env.New(t.Context()); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), value) {
				t.Errorf("error is %v, want the variable and its value", err)
			}
		})
	}
}

func TestPropagatorsAreThoseOfTheEnvironment(t *testing.T) {
	if got := set(t, nil).Propagators().Fields(); !slices.Contains(got, "traceparent") || !slices.Contains(got, "baggage") {
		t.Errorf("by default: %v", got)
	}
	if got := set(t, map[string]string{"OTEL_PROPAGATORS": "b3"}).Propagators().Fields(); !slices.Equal(got, []string{"b3"}) {
		t.Errorf("b3: %v", got)
	}
	var none propagation.TextMapPropagator = set(t, map[string]string{"OTEL_PROPAGATORS": "none"}).Propagators()
	if len(none.Fields()) != 0 {
		t.Errorf("none: %v", none.Fields())
	}
}

// The sampler drops, and what is left is sent to the endpoint at the end, with the name
// of the service.
//
// Case traces
func TestSpansArriveAtTheEndpoint(t *testing.T) {
	var mu sync.Mutex
	var got []*coltrace.ExportTraceServiceRequest
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		request := &coltrace.ExportTraceServiceRequest{}
		if err := proto.Unmarshal(body, request); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, request)
	}))
	defer collector.Close()
	for sampler, want := range map[string]int{"always_on": 1, "always_off": 0} {
		t.Run(sampler, func(t *testing.T) {
			got = nil
			telemetry := set(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "OTEL_TRACES_SAMPLER": sampler})
			_, span := telemetry.TracerProvider().Tracer("test").Start(t.Context(), "a span")
			span.End()
			for range 2 {
				if err := telemetry.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			http.DefaultTransport.(*http.Transport).CloseIdleConnections()
			mu.Lock()
			defer mu.Unlock()
			if len(got) != want {
				t.Fatalf("%d requests came, want %d", len(got), want)
			}
			for _, request := range got {
				text := request.String()
				for _, part := range []string{"a span", "sweets", "deployment.environment.name"} {
					if !strings.Contains(text, part) {
						t.Errorf("%q is missing in %s", part, text)
					}
				}
			}
		})
	}
}
