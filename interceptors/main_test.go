package interceptors_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	_ "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1" // contracts to be linked with
	_ "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
	_ "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	getSweet = "/sweetshop.catalog.v1.CatalogService/GetSweet"
	reserve  = "/sweetshop.inventory.v1.InventoryService/Reserve"
	browse   = "/sweetshop.storefront.v1.StorefrontService/Browse"
)

func ptr[T any](value T) *T { return &value }

// forAll is a policy of one rule for all methods.
func forAll(policy *policyv1.MethodPolicy) *policyv1.ServicePolicy {
	return &policyv1.ServicePolicy{Default: policy}
}

// forMethod is a policy of one method.
func forMethod(name string, policy *policyv1.MethodPolicy) *policyv1.ServicePolicy {
	return &policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{name: policy}}
}

func newPolicies(t testing.TB, builder *policyv1.ServicePolicy) *interceptors.Policies {
	t.Helper()
	policies, err := interceptors.NewPolicies(builder)
	if err != nil {
		t.Fatal(err)
	}
	return policies
}
