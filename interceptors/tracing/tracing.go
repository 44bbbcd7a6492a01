package tracing

import (
	"context"
	"errors"
	"reflect"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Tracing is the concern. It is safe for concurrent use, serves any number of
// channels and servers, and owns nothing that needs closing.
type Tracing struct {
	provider    trace.TracerProvider          // nil for the global one
	propagators propagation.TextMapPropagator // nil for the global ones
	skip        func(*interceptors.CallMeta) bool
}

// Option changes what [New] makes.
type Option func(*Tracing) error

// WithTracerProvider sets the provider of spans. Default: [otel.GetTracerProvider], as
// it is when a method is first called: what is set later is not seen.
func WithTracerProvider(provider trace.TracerProvider) Option {
	return func(t *Tracing) error {
		if provider == nil {
			return errors.New("tracing: WithTracerProvider(nil): leave the option out for the global one")
		}
		t.provider = provider
		return nil
	}
}

// WithPropagators sets how traces and baggage travel in metadata. Default:
// [otel.GetTextMapPropagator] as it is when a method is first called, or W3C's trace
// context and baggage if none is set.
func WithPropagators(propagators propagation.TextMapPropagator) Option {
	return func(t *Tracing) error {
		if propagators == nil {
			return errors.New("tracing: WithPropagators(nil): leave the option out for the global ones")
		}
		t.propagators = propagators
		return nil
	}
}

// WithSkip leaves out the methods for which skip reports true. It is asked once per
// method. Default: gRPC's own health checks, reflection, channelz and ORCA.
func WithSkip(skip func(*interceptors.CallMeta) bool) Option {
	return func(t *Tracing) error {
		if skip == nil {
			return errors.New("tracing: WithSkip(nil): leave the option out for the default")
		}
		t.skip = skip
		return nil
	}
}

// New makes the concern. Its errors are options that are nil.
func New(opts ...Option) (*Tracing, error) {
	t := &Tracing{skip: infrastructure}
	for _, opt := range opts {
		if err := opt(t); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// infrastructure reports whether a method belongs to gRPC itself.
func infrastructure(meta *interceptors.CallMeta) bool {
	return interceptors.Infrastructure(meta.Service)
}

// Stage is [interceptors.Tracing].
func (t *Tracing) Stage() interceptors.Stage { return interceptors.Tracing }

// providers returns those to use now, and whether they have any effect: spans are made, or
// contexts are passed on, as OpenTelemetry requires of a program without SDK.
func (t *Tracing) providers() (trace.TracerProvider, propagation.TextMapPropagator, bool) {
	provider, propagators := t.provider, t.propagators
	if provider == nil {
		provider = otel.GetTracerProvider()
	}
	if propagators == nil {
		propagators = otel.GetTextMapPropagator()
	}
	_, off := provider.(noop.TracerProvider)
	records := !off && (t.provider != nil || !unset(provider))
	passes := t.propagators != nil || !unset(propagators)
	if !passes {
		propagators = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	}
	return provider, propagators, records || passes
}

// unset reports whether global is the stand-in that package otel has until a program
// sets its own. That has no exported name.
func unset(global any) bool {
	kind := reflect.TypeOf(global)
	if kind.Kind() == reflect.Pointer {
		kind = kind.Elem()
	}
	return kind.PkgPath() == "go.opentelemetry.io/otel/internal/global"
}

// Exemplar is the id of the trace that the call of ctx belongs to, and whether it is sampled:
// histograms of latency lead to it.
func (t *Tracing) Exemplar(ctx context.Context) (traceID string, sampled bool) {
	id := TraceID(ctx)
	return id, id != ""
}

// TraceID is the id of the trace that the call of ctx belongs to, in hexadecimal, or
// "" if it belongs to none that is sampled. It is for exemplars and log lines, which
// lead to the trace.
func TraceID(ctx context.Context) string {
	if span := trace.SpanContextFromContext(ctx); span.IsSampled() && span.HasTraceID() {
		return span.TraceID().String()
	}
	return ""
}

// UnaryClient makes the span of a call, nil where there is nothing to trace.
func (t *Tracing) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	if m := t.newMethod(meta); m != nil {
		return m.call
	}
	return nil
}

// StreamClient makes the span of a stream, nil where there is nothing to trace.
func (t *Tracing) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	if m := t.newMethod(meta); m != nil {
		return m.open
	}
	return nil
}

// UnaryClientInterceptor is for use without a chain of concerns. It takes each call for
// one attempt, and so belongs outside of what may answer without one and inside of
// what retries. It panics without policies.
func (t *Tracing) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, t).UnaryClient()
}

// StreamClientInterceptor is for use without a chain of concerns. It panics without
// policies.
func (t *Tracing) StreamClientInterceptor(policies *interceptors.Policies) grpc.StreamClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, t).StreamClient()
}

// UnaryAttempt makes the span of an attempt and passes it on to the server.
func (t *Tracing) UnaryAttempt(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	if m := t.newMethod(meta); m != nil {
		return m.attempt
	}
	return nil
}

// StreamAttempt makes the span of the attempt of a stream and passes it on to the server.
func (t *Tracing) StreamAttempt(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	if m := t.newMethod(meta); m != nil {
		return m.openAttempt
	}
	return nil
}

// UnaryServer makes the span of a call that is handled, below the attempt that the
// metadata names. It is nil where there is nothing to trace.
func (t *Tracing) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	if m := t.newMethod(meta); m != nil {
		return m.serve
	}
	return nil
}

// StreamServer makes the span of a stream that is handled, from the call of the
// handler to its return.
func (t *Tracing) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	if m := t.newMethod(meta); m != nil {
		return m.serveStream
	}
	return nil
}

// UnaryServerInterceptor is for use without a chain of concerns. It panics without
// policies.
func (t *Tracing) UnaryServerInterceptor(policies *interceptors.Policies) grpc.UnaryServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, t).UnaryServer()
}

// StreamServerInterceptor is for use without a chain of concerns. It panics without
// policies.
func (t *Tracing) StreamServerInterceptor(policies *interceptors.Policies) grpc.StreamServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, t).StreamServer()
}
