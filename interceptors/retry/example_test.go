package retry_test

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/retry"
)

func Example() {
	retrying, err := retry.New(retry.WithObserver(interceptors.ObserverFunc(func(_ context.Context, _ *interceptors.CallMeta, e interceptors.Event) {
		if a, ok := e.(*retry.Attempt); ok {
			fmt.Println(a.Number, a.Code, a.Verdict)
		}
	})))
	if err != nil {
		fmt.Println(err)
		return
	}
	policies, err := interceptors.NewPolicies(nil) // what the contracts say
	if err != nil {
		fmt.Println(err)
		return
	}
	// With plain grpc-go: grpc.NewClient(target, grpc.WithUnaryInterceptor(interceptor)).
	interceptor := retrying.UnaryClientInterceptor(policies)
	answers := []error{status.Error(codes.Unavailable, "restarting"), nil}
	err = interceptor(context.Background(), "/sweetshop.catalog.v1.CatalogService/GetSweet", nil, nil, nil,
		func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
			answer := answers[0]
			answers = answers[1:]
			return answer
		})
	fmt.Println(err)
	// Output:
	// 1 Unavailable again
	// 2 OK answered
	// <nil>
}
