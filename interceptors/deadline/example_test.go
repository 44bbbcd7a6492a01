package deadline_test

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/deadline"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func Example() {
	timeout := "10ms"
	policies, err := interceptors.NewPolicies(&policyv1.ServicePolicy{
		Default: &policyv1.MethodPolicy{Timeout: &timeout},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	limited, err := deadline.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	// With plain grpc-go: grpc.NewClient(target, grpc.WithUnaryInterceptor(interceptor)).
	interceptor := limited.UnaryClientInterceptor(policies)
	err = interceptor(context.Background(), "/shop.Catalog/GetSweet", nil, nil, nil,
		func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			<-ctx.Done() // a server that does not answer
			return ctx.Err()
		})
	fmt.Println(err)
	// Output:
	// rpc error: code = DeadlineExceeded desc = context deadline exceeded (timeout of the policy: 10ms)
}
