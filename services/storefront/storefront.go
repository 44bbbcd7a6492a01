// Package storefront is the service of the sweet shop that customers talk to:
// it joins the answers of the catalog and the inventory, and takes orders. It uses
// only their generated clients; the client library adds resolution, balancing, caching
// and retries.
//
//	shop := storefront.New(catalogv1.NewCatalogServiceClient(catalogConn), inventoryv1.NewInventoryServiceClient(inventoryConn))
//	storefrontv1.RegisterStorefrontServiceServer(server, shop)
package storefront

import (
	"context"
	"crypto/rand"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

const (
	// CustomerKey is the metadata key that says who orders.
	CustomerKey = "customer-id"

	maxGrams = 5000 // of one order
)

// Service implements StorefrontServiceServer. It is safe for concurrent use and
// keeps nothing.
type Service struct {
	storefrontv1.UnimplementedStorefrontServiceServer

	catalog   catalogv1.CatalogServiceClient
	inventory inventoryv1.InventoryServiceClient
}

// New is a storefront before a catalog and an inventory.
func New(catalog catalogv1.CatalogServiceClient, inventory inventoryv1.InventoryServiceClient) *Service {
	return &Service{catalog: catalog, inventory: inventory}
}

// Browse shows one page of a section with what is in stock. Errors of the
// catalog and of the inventory are the customer's as they are.
func (s *Service) Browse(ctx context.Context, req *storefrontv1.BrowseRequest) (*storefrontv1.BrowseResponse, error) {
	page, err := s.catalog.ListSweets(ctx, &catalogv1.ListSweetsRequest{Section: req.GetSection(), PageToken: req.GetPageToken()})
	if err != nil {
		return nil, err
	}
	offers, err := s.offers(ctx, page.GetSweets())
	if err != nil {
		return nil, err
	}
	return &storefrontv1.BrowseResponse{Offers: offers, NextPageToken: page.GetNextPageToken()}, nil
}

// offers adds the stock to sweets, with one call for all of them.
func (s *Service) offers(ctx context.Context, sweets []*catalogv1.Sweet) ([]*storefrontv1.Offer, error) {
	if len(sweets) == 0 {
		return nil, nil
	}
	ids := make([]string, len(sweets))
	for i, sweet := range sweets {
		ids[i] = sweet.GetId()
	}
	stock, err := s.inventory.GetStock(ctx, &inventoryv1.GetStockRequest{SweetIds: ids})
	if err != nil {
		return nil, err
	}
	offers := make([]*storefrontv1.Offer, len(sweets))
	for i, sweet := range sweets {
		offers[i] = &storefrontv1.Offer{Sweet: sweet, GramsInStock: stock.GetGrams()[sweet.GetId()]}
	}
	return offers, nil
}

// PlaceOrder buys 1 to 5,000 grams of a sweet for the customer whom the
// metadata names. It is INVALID_ARGUMENT without a customer or with a bad
// field; other errors are those of the catalog and of the inventory.
func (s *Service) PlaceOrder(ctx context.Context, req *storefrontv1.PlaceOrderRequest) (*storefrontv1.PlaceOrderResponse, error) {
	if err := checkOrder(ctx, req); err != nil {
		return nil, err
	}
	found, err := s.catalog.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: req.GetSweetId()})
	if err != nil {
		return nil, err
	}
	if _, err := s.inventory.Reserve(ctx, &inventoryv1.ReserveRequest{SweetId: req.GetSweetId(), Grams: req.GetGrams()}); err != nil {
		return nil, err
	}
	return &storefrontv1.PlaceOrderResponse{OrderId: rand.Text(), TotalPence: total(found.GetSweet(), req.GetGrams())}, nil
}

func checkOrder(ctx context.Context, req *storefrontv1.PlaceOrderRequest) error {
	customer := metadata.ValueFromIncomingContext(ctx, CustomerKey)
	switch {
	case len(customer) != 1:
		return status.Errorf(codes.InvalidArgument, "metadata %q has %d values: send the id of one customer", CustomerKey, len(customer))
	case customer[0] == "":
		return status.Errorf(codes.InvalidArgument, "metadata %q is empty: send the id of a customer", CustomerKey)
	case req.GetSweetId() == "":
		return status.Error(codes.InvalidArgument, `sweet_id is empty: name a sweet, such as "lemon-sherbet"`)
	case req.GetGrams() < 1 || req.GetGrams() > maxGrams:
		return status.Errorf(codes.InvalidArgument, "grams is %d: order 1 to %d", req.GetGrams(), maxGrams)
	}
	return nil
}

// total is the price of so many grams. Part of a penny is a penny.
func total(sweet *catalogv1.Sweet, grams uint32) uint32 {
	return uint32((uint64(sweet.GetPricePence())*uint64(grams) + 99) / 100)
}
