package interceptors_test

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/deadline"
	"github.com/meshlite-go/meshlite/interceptors/metrics"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func Example_chain() {
	timeout := "2 seconds"
	policies, err := interceptors.NewPolicies(&policyv1.ServicePolicy{
		Default: &policyv1.MethodPolicy{Timeout: &timeout},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	measured, err := metrics.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	limited, err := deadline.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	retrying, err := retry.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = interceptors.Chain(interceptors.Client, policies, retrying, limited, retrying)
	fmt.Println(err)

	// Sorted by place: metrics, deadline, retry.
	chain, err := interceptors.Chain(interceptors.Client, policies, retrying, limited, measured)
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := grpc.NewClient("passthrough:///127.0.0.1:50051",
		append(chain.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	fmt.Println(conn.Target())
	// Output:
	// interceptors: retry is given twice: leave one of them out
	// passthrough:///127.0.0.1:50051
}

func ExampleParseDuration() {
	d, err := interceptors.ParseDuration("5 minutes")
	fmt.Println(d, err)
	_, err = interceptors.ParseDuration("5")
	fmt.Println(err)
	// Output:
	// 5m0s <nil>
	// "5" is not a duration: write a number and a unit, such as "90s", "5 minutes" or "1 day"
}

func ExampleInterceptors() {
	policies, err := interceptors.NewPolicies(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	own := interceptors.Interceptors{
		UnaryServerInterceptor: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			fmt.Println(info.FullMethod)
			return handler(ctx, req)
		},
	}
	chain, err := interceptors.Chain(interceptors.Server, policies, own)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = chain.UnaryServer()(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: "/shop.Catalog/GetSweet"},
		func(context.Context, any) (any, error) { return nil, nil })
	// Output:
	// /shop.Catalog/GetSweet
}
