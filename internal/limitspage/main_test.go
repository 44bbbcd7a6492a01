package limitspage_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/limitspage"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const getSweet = "sweetshop.catalog.v1.CatalogService/GetSweet"

func newLimiter(t *testing.T) *ratelimit.Limiter {
	t.Helper()
	l, err := ratelimit.New()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newLimits(t *testing.T) *limitspage.Limits {
	t.Helper()
	return limitspage.New(newConcurrency(t))
}

func newConcurrency(t *testing.T) *concurrency.Limiter {
	t.Helper()
	own, err := concurrency.New()
	if err != nil {
		t.Fatal(err)
	}
	return own
}

// handle has a server handle n calls, and counts those that reach the handler.
func handle(t *testing.T, policy *policyv1.MethodPolicy, n int, concerns ...interceptors.Concern) (handled int) {
	t.Helper()
	policies, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"GetSweet": policy}})
	if err != nil {
		t.Fatal(err)
	}
	chain, err := interceptors.Chain(interceptors.Server, policies, concerns...)
	if err != nil {
		t.Fatal(err)
	}
	info := &grpc.UnaryServerInfo{FullMethod: "/" + getSweet}
	for range n {
		_, _ = chain.UnaryServer()(t.Context(), &catalogv1.GetSweetRequest{}, info, func(context.Context, any) (any, error) {
			handled++
			return &catalogv1.GetSweetResponse{}, nil
		})
	}
	return handled
}
