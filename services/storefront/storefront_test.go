package storefront_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
	"github.com/meshlite-go/meshlite/services/storefront"
)

func pearDrops() *catalogv1.Sweet {
	return &catalogv1.Sweet{Id: "pear-drops", Name: "Pear Drops", Section: "boiled", PricePence: 110}
}

// as is the context of a customer's call.
func as(t *testing.T, customers ...string) context.Context {
	md := metadata.MD{storefront.CustomerKey: customers}
	return metadata.NewOutgoingContext(t.Context(), md)
}

func wantError(t *testing.T, err error, code codes.Code, says string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want %v with %q", err, code, says)
	}
}

func TestBrowseAddsTheStock(t *testing.T) {
	humbugs := &catalogv1.Sweet{Id: "mint-humbugs"}
	catalog := &fakeCatalog{page: &catalogv1.ListSweetsResponse{
		Sweets: []*catalogv1.Sweet{pearDrops(), humbugs}, NextPageToken: "more",
	}}
	inventory := &fakeInventory{grams: map[string]uint32{"pear-drops": 300}}
	client := dial(t, storefront.New(catalog, inventory))

	got, err := client.Browse(t.Context(), &storefrontv1.BrowseRequest{Section: "boiled", PageToken: "here"})
	if err != nil {
		t.Fatal(err)
	}
	want := &storefrontv1.BrowseResponse{
		Offers:        []*storefrontv1.Offer{{Sweet: pearDrops(), GramsInStock: 300}, {Sweet: humbugs}},
		NextPageToken: "more",
	}
	if !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if want := (&catalogv1.ListSweetsRequest{Section: "boiled", PageToken: "here"}); !proto.Equal(catalog.listed, want) {
		t.Errorf("asked the catalog for %v, want %v", catalog.listed, want)
	}
	if want := (&inventoryv1.GetStockRequest{SweetIds: []string{"pear-drops", "mint-humbugs"}}); len(inventory.asked) != 1 || !proto.Equal(inventory.asked[0], want) {
		t.Errorf("asked the inventory for %v, want %v once", inventory.asked, want)
	}
}

func TestBrowseOfAnEmptyPageAsksForNoStock(t *testing.T) {
	inventory := &fakeInventory{}
	client := dial(t, storefront.New(&fakeCatalog{page: &catalogv1.ListSweetsResponse{}}, inventory))
	got, err := client.Browse(t.Context(), &storefrontv1.BrowseRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.GetOffers()) != 0 || got.GetNextPageToken() != "" {
		t.Errorf("got %v, want nothing", got)
	}
	if len(inventory.asked) != 0 {
		t.Errorf("asked the inventory for %v", inventory.asked)
	}
}

func TestPlaceOrder(t *testing.T) {
	for name, test := range map[string]struct{ price, grams, total uint32 }{
		"a hundred grams":  {110, 100, 110},
		"a gram":           {110, 1, 2}, // part of a penny is a penny
		"a penny exactly":  {100, 1, 1},
		"the largest":      {110, 5000, 5500},
		"an odd weight":    {95, 333, 317},
		"a free promotion": {0, 5000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			sweet := pearDrops()
			sweet.PricePence = test.price
			inventory := &fakeInventory{}
			client := dial(t, storefront.New(&fakeCatalog{sweet: sweet}, inventory))

			got, err := client.PlaceOrder(as(t, "ada"), &storefrontv1.PlaceOrderRequest{SweetId: "pear-drops", Grams: test.grams})
			if err != nil {
				t.Fatal(err)
			}
			if got.GetTotalPence() != test.total || got.GetOrderId() == "" {
				t.Errorf("got %v, want an id and %d", got, test.total)
			}
			want := &inventoryv1.ReserveRequest{SweetId: "pear-drops", Grams: test.grams}
			if len(inventory.reserved) != 1 || !proto.Equal(inventory.reserved[0], want) {
				t.Errorf("reserved %v, want %v once", inventory.reserved, want)
			}
		})
	}
}

func TestOrdersHaveIDsOfTheirOwn(t *testing.T) {
	client := dial(t, storefront.New(&fakeCatalog{sweet: pearDrops()}, &fakeInventory{}))
	seen := make(map[string]bool)
	for range 100 {
		got, err := client.PlaceOrder(as(t, "ada"), &storefrontv1.PlaceOrderRequest{SweetId: "pear-drops", Grams: 1})
		if err != nil {
			t.Fatal(err)
		}
		seen[got.GetOrderId()] = true
	}
	if len(seen) != 100 {
		t.Errorf("100 orders have %d ids", len(seen))
	}
}

func TestPlaceOrderRefuses(t *testing.T) {
	inventory := &fakeInventory{}
	client := dial(t, storefront.New(&fakeCatalog{sweet: pearDrops()}, inventory))
	for name, test := range map[string]struct {
		ctx   context.Context
		id    string
		grams uint32
		says  string
	}{
		"nobody":          {t.Context(), "pear-drops", 1, `"customer-id" has 0 values`},
		"a nameless one":  {as(t, ""), "pear-drops", 1, `"customer-id" is empty`},
		"two at once":     {as(t, "ada", "bob"), "pear-drops", 1, `"customer-id" has 2 values`},
		"no sweet":        {as(t, "ada"), "", 1, "sweet_id is empty"},
		"nothing of it":   {as(t, "ada"), "pear-drops", 0, "grams is 0: order 1 to 5000"},
		"a gram too many": {as(t, "ada"), "pear-drops", 5001, "grams is 5001: order 1 to 5000"},
		"a lorry's load":  {as(t, "ada"), "pear-drops", 1<<32 - 1, "grams is 4294967295"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.PlaceOrder(test.ctx, &storefrontv1.PlaceOrderRequest{SweetId: test.id, Grams: test.grams})
			wantError(t, err, codes.InvalidArgument, test.says)
		})
	}
	if len(inventory.reserved) != 0 {
		t.Errorf("reserved %v for refused orders", inventory.reserved)
	}
}

// A customer sees the code and the message of the service behind.
func TestErrorsFromBehindPass(t *testing.T) {
	page := &catalogv1.ListSweetsResponse{Sweets: []*catalogv1.Sweet{pearDrops()}}
	unknown := status.Error(codes.NotFound, `sweet "sprout" is not in the catalog`)
	soldOut := status.Error(codes.FailedPrecondition, "only 3 are left")
	down := status.Error(codes.Unavailable, "no instance is healthy")

	browse := func(client storefrontv1.StorefrontServiceClient) error {
		_, err := client.Browse(t.Context(), &storefrontv1.BrowseRequest{})
		return err
	}
	order := func(client storefrontv1.StorefrontServiceClient) error {
		_, err := client.PlaceOrder(as(t, "ada"), &storefrontv1.PlaceOrderRequest{SweetId: "sprout", Grams: 5})
		return err
	}
	for name, test := range map[string]struct {
		catalog   error
		inventory error
		call      func(storefrontv1.StorefrontServiceClient) error
		want      error
	}{
		"browse without a catalog":    {down, nil, browse, down},
		"browse without an inventory": {nil, down, browse, down},
		"order of an unknown sweet":   {unknown, nil, order, unknown},
		"order of a sweet sold out":   {nil, soldOut, order, soldOut},
		"order without an inventory":  {nil, down, order, down},
	} {
		t.Run(name, func(t *testing.T) {
			inventory := &fakeInventory{err: test.inventory}
			client := dial(t, storefront.New(&fakeCatalog{page: page, sweet: pearDrops(), err: test.catalog}, inventory))
			err := test.call(client)
			wantError(t, err, status.Code(test.want), status.Convert(test.want).Message())
			if test.catalog != nil && len(inventory.asked)+len(inventory.reserved) != 0 {
				t.Error("asked the inventory although the catalog had failed")
			}
		})
	}
}
