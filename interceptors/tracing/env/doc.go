// Package env makes the provider of spans that the OTEL_* variables describe, for
// programs that have none yet.
//
//	telemetry, err := env.New(ctx)
//	defer telemetry.Shutdown(ctx)
//	traced, err := tracing.New(telemetry.Options()...)
//
// It obeys OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER ("otlp", "console", "none"),
// OTEL_EXPORTER_OTLP_*, OTEL_TRACES_SAMPLER and its argument, OTEL_PROPAGATORS,
// OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_* and OTEL_SPAN_*, by
// OpenTelemetry's own SDK, autoexport and autoprop.
//
// In one thing it differs from a bare SDK: while neither an exporter nor an endpoint
// is named it is off, and does not send to localhost unasked. A
// program that is off still passes on the traces of others if OTEL_PROPAGATORS says
// how.
//
// It is a room of its own because it compiles the SDK and the exporters; package
// tracing compiles the API alone and takes any provider.
package env
