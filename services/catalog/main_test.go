package catalog_test

import (
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/internal/memory"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial serves impl in memory and gives a client of it.
func dial(t *testing.T, impl catalogv1.CatalogServiceServer) catalogv1.CatalogServiceClient {
	t.Helper()
	return catalogv1.NewCatalogServiceClient(memory.Dial(t, func(s *grpc.Server) { catalogv1.RegisterCatalogServiceServer(s, impl) }))
}
