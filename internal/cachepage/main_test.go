package cachepage_test

import (
	"context"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/internal/cachepage"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const getSweet = "sweetshop.catalog.v1.CatalogService/GetSweet"

func newCache(t *testing.T, opts ...cache.Option) *cache.Cache {
	t.Helper()
	c, err := cache.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// shop is asked through a cache, and counts the calls that go through.
type shop struct {
	sweets catalogv1.CatalogServiceClient
	calls  atomic.Int64
}

func openShop(t *testing.T, c *cache.Cache) *shop {
	t.Helper()
	policies, err := interceptors.NewPolicies(&policyv1.ServicePolicy{
		Methods: map[string]*policyv1.MethodPolicy{"GetSweet": {Cache: &policyv1.CacheRule{Ttl: proto.String("1m")}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{}
	// There is no server: the innermost interceptor is who answers.
	answer := func(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
		s.calls.Add(1)
		return nil
	}
	conn, err := grpc.NewClient("passthrough:///shop", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(c.UnaryClientInterceptor(policies), answer))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s.sweets = catalogv1.NewCatalogServiceClient(conn)
	return s
}

func (s *shop) get(t *testing.T, id string) {
	t.Helper()
	if _, err := s.sweets.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: id}); err != nil {
		t.Fatal(err)
	}
}

func namesOf(page cachepage.Page) []string {
	var names []string
	for _, c := range page.Caches {
		names = append(names, c.Name)
	}
	return names
}
