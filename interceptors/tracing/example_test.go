package tracing_test

import (
	"context"
	"fmt"
	"slices"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats/opentelemetry"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/tracing"
)

func Example() {
	spans := tracetest.NewSpanRecorder() // a program has an exporter, see package env
	traced, err := tracing.New(tracing.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
	if err != nil {
		fmt.Println(err)
		return
	}
	policies, err := interceptors.NewPolicies(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	// With plain grpc-go: grpc.WithUnaryInterceptor(interceptor).
	interceptor := traced.UnaryClientInterceptor(policies)
	_ = interceptor(context.Background(), "/shop.Catalog/GetSweet", nil, nil, nil,
		func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil })
	for _, span := range spans.Ended() {
		fmt.Println(span.SpanKind(), span.Name())
	}
	// Output:
	// client attempt shop.Catalog/GetSweet
	// client shop.Catalog/GetSweet
}

// The metrics of gRPC's own plugin, for those who want OpenTelemetry's beside
// Prometheus': its options pass through meshlite.WithDialOptions and
// meshlite.WithServerOptions.
func Example_metrics() {
	reader := metric.NewManualReader() // a program has a periodic reader and an exporter
	options := opentelemetry.Options{MetricsOptions: opentelemetry.MetricsOptions{
		MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)),
	}}
	// meshlite.NewServer(service, meshlite.WithServerOptions(opentelemetry.ServerOption(options)))
	server := grpc.NewServer(opentelemetry.ServerOption(options))
	listener := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	// meshlite.NewClient(target, meshlite.WithDialOptions(opentelemetry.DialOption(options)))
	conn, err := grpc.NewClient("passthrough:///sweets", opentelemetry.DialOption(options),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dialer(listener)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	_ = conn.Invoke(context.Background(), "/shop.Catalog/GetSweet", nil, nil)

	var metrics metricdata.ResourceMetrics
	_ = reader.Collect(context.Background(), &metrics)
	var names []string
	for _, scope := range metrics.ScopeMetrics {
		for _, m := range scope.Metrics {
			names = append(names, m.Name)
		}
	}
	fmt.Println(slices.Contains(names, "grpc.client.attempt.duration"))
	// Output: true
}
