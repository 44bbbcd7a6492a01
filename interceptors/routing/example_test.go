package routing_test

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/routing"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// A router that a resolver keeps up to date; here its chain is set by hand.
func Example() {
	router, err := routes.NewRouter()
	if err != nil {
		fmt.Println(err)
		return
	}
	router.Update(&route.Chain{
		Service: "catalog", Datacenter: "dc1",
		Routes: []*route.Route{{Name: "default", Arms: []*route.Arm{{Name: "v2", Weight: 100, Target: "v2"}}}},
		Targets: map[string]*route.Target{
			"v2": {ID: "v2", Service: "catalog", Subset: "v2", Datacenter: "dc1"},
		},
	}, nil)
	routed, err := routing.New(router)
	if err != nil {
		fmt.Println(err)
		return
	}
	policies, err := interceptors.NewPolicies(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	// With plain grpc-go: resolver.DialOptions(directory, resolver.WithRoutes(router)), and
	// grpc.WithChainUnaryInterceptor(interceptor).
	interceptor := routed.UnaryClientInterceptor(policies)
	err = interceptor(context.Background(), "/shop.Catalog/GetSweet", nil, nil, nil,
		func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			to := attempt.FromContext(ctx).Route()
			fmt.Println(to.Name, to.Arm, to.Destination)
			return nil
		})
	fmt.Println(err)
	// Output:
	// default v2 dc1/catalog/v2
	// <nil>
}
