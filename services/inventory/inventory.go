// Package inventory is a service of the sweet shop: it stores how much of each
// sweet there is. Its stock is in memory, of the sweets that a file inside the
// binary names, and each replica has a stock of its own.
//
//	stock, err := inventory.New(inventory.Options{Latency: 2 * time.Millisecond})
//	inventoryv1.RegisterInventoryServiceServer(server, stock)
package inventory

import (
	"cmp"
	"context"
	_ "embed"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
)

// maxSweets is how many sweets one GetStock may ask for.
const maxSweets = 100

//go:embed sweets.txt
var sweetsFile string

// Service implements InventoryServiceServer. It is safe for concurrent use.
type Service struct {
	inventoryv1.UnimplementedInventoryServiceServer

	opts Options

	mu    sync.Mutex
	grams map[string]uint32 // by sweet; its keys never change
}

// New is a full inventory.
func New(opts Options) (*Service, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	s := &Service{opts: opts, grams: make(map[string]uint32)}
	for _, id := range strings.Fields(sweetsFile) {
		s.grams[id] = cmp.Or(opts.Grams, defaultGrams)
	}
	return s, nil
}

// GetStock returns the stock of up to 100 sweets; more are INVALID_ARGUMENT. The
// stock of an unknown sweet is 0 grams: a catalog may be ahead of the inventory.
func (s *Service) GetStock(ctx context.Context, req *inventoryv1.GetStockRequest) (*inventoryv1.GetStockResponse, error) {
	ids := req.GetSweetIds()
	if len(ids) > maxSweets {
		return nil, status.Errorf(codes.InvalidArgument, "sweet_ids has %d: ask for %d at most", len(ids), maxSweets)
	}
	if err := s.opts.wait(ctx); err != nil {
		return nil, err
	}
	grams := make(map[string]uint32, len(ids))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		grams[id] = s.grams[id]
	}
	return &inventoryv1.GetStockResponse{Grams: grams}, nil
}

// Reserve takes sweets out of the stock. An unknown sweet is NOT_FOUND, and more
// than there is FAILED_PRECONDITION; neither changes the stock.
func (s *Service) Reserve(ctx context.Context, req *inventoryv1.ReserveRequest) (*inventoryv1.ReserveResponse, error) {
	if req.GetGrams() == 0 {
		return nil, status.Error(codes.InvalidArgument, "grams is 0: reserve 1 at least")
	}
	if err := s.opts.wait(ctx); err != nil {
		return nil, err
	}
	left, err := s.take(req.GetSweetId(), req.GetGrams())
	if err != nil {
		return nil, err
	}
	return &inventoryv1.ReserveResponse{GramsLeft: left}, nil
}

func (s *Service) take(id string, grams uint32) (left uint32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stock, known := s.grams[id]
	if !known {
		return 0, status.Errorf(codes.NotFound, "sweet_id %.40q is not in the inventory", id)
	}
	if stock < grams {
		return 0, status.Errorf(codes.FailedPrecondition, "grams is %d: only %d of sweet %q are left", grams, stock, id)
	}
	s.grams[id] = stock - grams
	return s.grams[id], nil
}
