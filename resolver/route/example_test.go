package route_test

import (
	"fmt"

	"github.com/meshlite-go/meshlite/resolver/route"
)

// A chain sends the calls of testers to version 2, and one of ten others.
func Example() {
	targets := map[string]*route.Target{
		"1": {ID: "1", Service: "catalog", Subset: "v1", Datacenter: "dc1", Filter: `Service.Meta.version == "1"`},
		"2": {ID: "2", Service: "catalog", Subset: "v2", Datacenter: "dc1", Filter: `Service.Meta.version == "2"`},
	}
	testers := route.Match{PathPrefix: "/shop.Catalog/", Headers: []route.HeaderMatch{{Name: "x-user", Prefix: "test-"}}}
	chain := &route.Chain{Service: "catalog", Datacenter: "dc1", Targets: targets, Routes: []*route.Route{
		{Name: "testers", Match: testers, Arms: []*route.Arm{{Name: "v2", Weight: 100, Target: "2"}}},
		{Name: "default", Arms: []*route.Arm{{Name: "v1", Weight: 90, Target: "1"}, {Name: "v2", Weight: 10, Target: "2"}}},
	}}
	if err := chain.Check(); err != nil {
		fmt.Println(err)
		return
	}
	for _, user := range []string{"test-1", "alice"} {
		md := metadata{"x-user": {user}} // or metadata.MD of gRPC
		r, _ := chain.Match("/shop.Catalog/GetProduct", md)
		fmt.Printf("%s: %s, %v\n", user, r.Name, targets[r.Arms[0].Target])
		for _, v := range chain.Explain("/shop.Catalog/GetProduct", md) {
			if !v.Matches {
				fmt.Printf("  not %s: %s\n", v.Route.Name, v.Reason)
			}
		}
	}
	// Output:
	// test-1: testers, catalog v2 in dc1
	// alice: default, catalog v1 in dc1
	//   not testers: x-user does not begin with "test-"
}
