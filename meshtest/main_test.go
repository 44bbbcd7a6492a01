package meshtest_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shop is what is tested: a catalog with one sweet.
type shop struct {
	catalogv1.UnimplementedCatalogServiceServer
}

func (shop) GetSweet(_ context.Context, request *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: request.GetId()}}, nil
}

func register(s grpc.ServiceRegistrar) { catalogv1.RegisterCatalogServiceServer(s, shop{}) }

// once makes each call reach a handler, once.
func once() meshlite.Option {
	none, attempts := "0s", uint32(1)
	return meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		Cache: &policyv1.CacheRule{Ttl: &none}, Retry: &policyv1.RetryRule{MaxAttempts: &attempts},
	}})
}

// uncached makes each call reach a handler, and leaves the retries of the contract.
func uncached() meshlite.Option {
	none := "0s"
	return meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{Ttl: &none}}})
}
