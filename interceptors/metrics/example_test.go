package metrics_test

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors/metrics"
)

func Example() {
	registry := prometheus.NewRegistry()
	measured, err := metrics.New(metrics.WithRegisterer(registry))
	if err != nil {
		fmt.Println(err)
		return
	}
	// With plain grpc-go: grpc.NewServer(grpc.UnaryInterceptor(interceptor)).
	interceptor := measured.UnaryServerInterceptor()
	_, _ = interceptor(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: "/shop.Catalog/GetSweet"},
		func(context.Context, any) (any, error) { return "a sweet", nil })

	families, _ := registry.Gather()
	for _, family := range families {
		fmt.Println(family.GetName())
	}
	// Output:
	// grpc_server_handled_total
	// grpc_server_handling_seconds
	// grpc_server_in_flight
	// grpc_server_msg_received_bytes
	// grpc_server_msg_received_total
	// grpc_server_msg_sent_bytes
	// grpc_server_msg_sent_total
	// grpc_server_started_total
}
