package routes_test

import (
	"context"
	"fmt"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/resolver/route"
)

func Example() {
	router, err := routes.NewRouter(routes.WithFailoverThreshold(0.7))
	if err != nil {
		fmt.Println(err)
		return
	}
	// A resolver does this whenever the chain changes.
	router.Update(&route.Chain{
		Service: "catalog",
		Routes:  []*route.Route{{Name: "default", Arms: []*route.Arm{{Name: "v2", Weight: 100, Target: "v2.catalog"}}}},
		Targets: map[string]*route.Target{"v2.catalog": {ID: "v2.catalog", Service: "catalog", Subset: "v2", Datacenter: "dc1"}},
	}, nil)

	// An interceptor does this for each call.
	choice, at, err := router.Choose(context.Background(), "/shop.Catalog/Get")
	fmt.Println(at.Name, at.Arm, choice.Target, err)
	// Output: default v2 catalog v2 in dc1 <nil>
}
