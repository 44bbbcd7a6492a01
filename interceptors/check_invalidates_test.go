package interceptors_test

import (
	"testing"

	_ "google.golang.org/grpc/interop/grpc_testing" // a contract with streams

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// An invalidation of what no linked contract has would leave its answers stale, silently.
func TestInvalidationsThatReachNothingAreRefused(t *testing.T) {
	methods := func(names ...string) *policyv1.MethodPolicy {
		return &policyv1.MethodPolicy{Invalidates: &policyv1.Invalidation{Methods: names}}
	}
	tags := func(tags ...string) *policyv1.MethodPolicy {
		return &policyv1.MethodPolicy{Invalidates: &policyv1.Invalidation{Tags: tags}}
	}
	const stream = "grpc.testing.TestService/FullDuplexCall"
	for _, test := range []struct {
		method string
		policy *policyv1.MethodPolicy
		want   []string
	}{
		{"Reserve", methods("GetStock", "GetStocks"), []string{"invalidates.methods[1]", `no method "GetStocks"`}},
		{"Reserve", methods("sweetshop.catalog.v1.CatalogService/GetStock"), []string{"invalidates.methods[0]", `sweetshop.catalog.v1.CatalogService has no method "GetStock"`}},
		{"Reserve", methods("sweetshop.catalog.v1.Sweet/GetSweet"), []string{"invalidates.methods[0]", `no method "GetSweet"`}},
		{"Reserve", methods("/GetStock"), []string{"invalidates.methods[0]", `write "Method" or "package.Service/Method"`}},
		{"Reserve", tags("stock", "stock:{no_such_field}"), []string{"invalidates.tags[1]", "no_such_field"}},
		{stream, methods("EmptyCall"), []string{"invalidates: grpc.testing.TestService.FullDuplexCall is a stream"}},
	} {
		refused(t, forMethod(test.method, test.policy), test.want...)
	}
	for _, right := range []*policyv1.MethodPolicy{
		methods("GetStock", "sweetshop.catalog.v1.CatalogService/GetSweet"), methods("other.v1.OtherService/Get"), tags("stock"),
	} {
		if _, err := interceptors.NewPolicies(forMethod("Reserve", right)); err != nil {
			t.Errorf("%v: %v", right, err)
		}
	}
}
