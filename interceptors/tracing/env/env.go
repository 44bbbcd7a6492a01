package env

import (
	"context"
	"fmt"
	"os"
	"strings"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/meshlite-go/meshlite/interceptors/tracing"
)

// Telemetry is what the environment describes. It is safe for concurrent use.
type Telemetry struct {
	sdk         *sdktrace.TracerProvider // nil when off
	propagators propagation.TextMapPropagator
	passes      bool // the traces of others, when off
}

// New reads the environment. The error is an exporter, a protocol or a propagator that
// does not exist; an endpoint that cannot be reached is none, spans that cannot be
// sent are dropped and reported to otel.Handle, and so is a wrong sampler.
func New(ctx context.Context) (*Telemetry, error) {
	t := &Telemetry{propagators: propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})}
	if names := os.Getenv("OTEL_PROPAGATORS"); names != "" {
		propagators, err := autoprop.TextMapPropagator(strings.Split(names, ",")...)
		if err != nil {
			return nil, fmt.Errorf("env: OTEL_PROPAGATORS=%q: %w: write for instance tracecontext,baggage", names, err)
		}
		t.propagators, t.passes = propagators, true
	}
	if !configured() {
		return t, nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("env: OTEL_TRACES_EXPORTER=%q: %w", os.Getenv("OTEL_TRACES_EXPORTER"), err)
	}
	if !autoexport.IsNoneSpanExporter(exporter) {
		t.sdk = sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter))
	}
	return t, nil
}

// configured reports whether the environment says that spans go anywhere.
func configured() bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	for _, name := range []string{"OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}

// Enabled reports whether spans are made.
func (t *Telemetry) Enabled() bool { return t.sdk != nil }

// Active reports whether spans are made, or the traces of others are passed on by the propagators
// that the environment names. If not, a program needs no [tracing.Tracing].
func (t *Telemetry) Active() bool { return t.sdk != nil || t.passes }

// TracerProvider makes spans, or none when off. A program with spans of its own gives
// it to otel.SetTracerProvider.
func (t *Telemetry) TracerProvider() trace.TracerProvider {
	if t.sdk == nil {
		return noop.NewTracerProvider()
	}
	return t.sdk
}

// Propagators are those of OTEL_PROPAGATORS, by default W3C's trace context and
// baggage.
func (t *Telemetry) Propagators() propagation.TextMapPropagator { return t.propagators }

// Options are for [tracing.New]. When off, calls cost nothing.
func (t *Telemetry) Options() []tracing.Option {
	options := []tracing.Option{tracing.WithTracerProvider(t.TracerProvider())}
	if t.Active() {
		options = append(options, tracing.WithPropagators(t.propagators))
	}
	return options
}

// Shutdown sends what is left and ends the goroutine that sends, within ctx. Spans
// that begin afterwards are lost. It may be called more than once.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if t.sdk == nil {
		return nil
	}
	if err := t.sdk.Shutdown(ctx); err != nil {
		return fmt.Errorf("env: spans that were left: %w", err)
	}
	return nil
}
