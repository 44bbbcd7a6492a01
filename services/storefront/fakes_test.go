package storefront_test

import (
	"context"

	"google.golang.org/grpc"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
)

// fakeCatalog answers every call with what it holds.
type fakeCatalog struct {
	catalogv1.CatalogServiceClient

	page  *catalogv1.ListSweetsResponse
	sweet *catalogv1.Sweet
	err   error

	listed *catalogv1.ListSweetsRequest
}

func (f *fakeCatalog) ListSweets(_ context.Context, req *catalogv1.ListSweetsRequest, _ ...grpc.CallOption) (*catalogv1.ListSweetsResponse, error) {
	f.listed = req
	return f.page, f.err
}

func (f *fakeCatalog) GetSweet(context.Context, *catalogv1.GetSweetRequest, ...grpc.CallOption) (*catalogv1.GetSweetResponse, error) {
	return &catalogv1.GetSweetResponse{Sweet: f.sweet}, f.err
}

// fakeInventory answers every call with what it holds.
type fakeInventory struct {
	inventoryv1.InventoryServiceClient

	grams map[string]uint32
	err   error

	asked    []*inventoryv1.GetStockRequest
	reserved []*inventoryv1.ReserveRequest
}

func (f *fakeInventory) GetStock(_ context.Context, req *inventoryv1.GetStockRequest, _ ...grpc.CallOption) (*inventoryv1.GetStockResponse, error) {
	f.asked = append(f.asked, req)
	return &inventoryv1.GetStockResponse{Grams: f.grams}, f.err
}

func (f *fakeInventory) Reserve(_ context.Context, req *inventoryv1.ReserveRequest, _ ...grpc.CallOption) (*inventoryv1.ReserveResponse, error) {
	f.reserved = append(f.reserved, req)
	return &inventoryv1.ReserveResponse{}, f.err
}
