package inventory_test

import (
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/internal/memory"
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial serves impl in memory and gives a client of it.
func dial(t *testing.T, impl inventoryv1.InventoryServiceServer) inventoryv1.InventoryServiceClient {
	t.Helper()
	return inventoryv1.NewInventoryServiceClient(memory.Dial(t, func(s *grpc.Server) { inventoryv1.RegisterInventoryServiceServer(s, impl) }))
}
