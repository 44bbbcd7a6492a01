package recovery_test

import (
	"context"
	"fmt"
	"log/slog"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/recovery"
)

func Example() {
	recovered, err := recovery.New(
		recovery.WithLogger(slog.New(slog.DiscardHandler)),
		recovery.WithObserver(interceptors.ObserverFunc(func(_ context.Context, meta *interceptors.CallMeta, e interceptors.Event) {
			if p, ok := e.(*recovery.Panic); ok {
				fmt.Printf("%s: %v\n", meta.Method, p.Value)
			}
		})),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	// With plain grpc-go: grpc.NewServer(grpc.UnaryInterceptor(interceptor)).
	interceptor := recovered.UnaryServerInterceptor()
	_, err = interceptor(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: "/shop.Catalog/GetSweet"},
		func(context.Context, any) (any, error) { panic("no sweets left") })
	fmt.Println(err)
	// Output:
	// GetSweet: no sweets left
	// rpc error: code = Internal desc = /shop.Catalog/GetSweet failed: see the log of the server
}
