package tracing

import (
	"context"
	"net/http"
	"slices"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// httpMethods are those that a span names; others may be made up.
var httpMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// StartRequest begins the span of an HTTP request that is served, below the one that its
// headers name, and returns the context of r with it. end is to be called once, with the route
// of the request ("" is none) and the status of the answer (0 is an aborted one). Calls that
// are made with the context are below the span. It is the Tracer of package gateway/edge.
func (t *Tracing) StartRequest(r *http.Request) (ctx context.Context, end func(route string, status int)) {
	provider, propagators, active := t.providers()
	if !active {
		return r.Context(), func(string, int) {}
	}
	method, attributes := r.Method, []attribute.KeyValue{}
	if !slices.Contains(httpMethods, method) {
		method = "HTTP"
		attributes = append(attributes, semconv.HTTPRequestMethodOther, semconv.HTTPRequestMethodOriginal(cut(r.Method)))
	} else {
		attributes = append(attributes, semconv.HTTPRequestMethodKey.String(method))
	}
	ctx = propagators.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := provider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)).Start(ctx, method,
		trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attributes...))
	if !span.IsRecording() {
		return ctx, func(string, int) { span.End() }
	}
	return ctx, func(route string, status int) {
		if route != "" {
			span.SetName(method + " " + cut(route))
			span.SetAttributes(semconv.HTTPRoute(cut(route)))
		}
		if status != 0 {
			span.SetAttributes(semconv.HTTPResponseStatusCode(status))
		}
		if status == 0 || status >= 500 {
			reason := "aborted"
			if status != 0 {
				reason = strconv.Itoa(status)
			}
			span.SetAttributes(semconv.ErrorTypeKey.String(reason))
			span.SetStatus(otelcodes.Error, "")
		}
		span.End()
	}
}
