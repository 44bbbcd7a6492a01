package storefront_test

import (
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/internal/memory"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial serves impl in memory and gives a client of it.
func dial(t *testing.T, impl storefrontv1.StorefrontServiceServer) storefrontv1.StorefrontServiceClient {
	t.Helper()
	return storefrontv1.NewStorefrontServiceClient(memory.Dial(t, func(s *grpc.Server) { storefrontv1.RegisterStorefrontServiceServer(s, impl) }))
}
