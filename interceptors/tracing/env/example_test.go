package env_test

import (
	"context"
	"fmt"

	"github.com/meshlite-go/meshlite/interceptors/tracing"
	"github.com/meshlite-go/meshlite/interceptors/tracing/env"
)

func Example() {
	ctx := context.Background()
	telemetry, err := env.New(ctx) // OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = telemetry.Shutdown(ctx) }()
	traced, err := tracing.New(telemetry.Options()...) // for meshlite.WithTracing
	fmt.Println(traced.Stage(), err, telemetry.Enabled())
	// Output: tracing <nil> false
}
