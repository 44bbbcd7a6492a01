package storefront_test

import (
	"context"
	"fmt"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
	"github.com/meshlite-go/meshlite/services/storefront"
)

// A storefront takes plain generated clients, so a test can give it fakes.
func Example() {
	catalog := &fakeCatalog{page: &catalogv1.ListSweetsResponse{
		Sweets: []*catalogv1.Sweet{{Id: "pear-drops", Name: "Pear Drops", PricePence: 110}},
	}}
	inventory := &fakeInventory{grams: map[string]uint32{"pear-drops": 2500}}

	shop := storefront.New(catalog, inventory)
	answer, err := shop.Browse(context.Background(), &storefrontv1.BrowseRequest{Section: "boiled"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, offer := range answer.GetOffers() {
		fmt.Printf("%s: %d grams in stock\n", offer.GetSweet().GetName(), offer.GetGramsInStock())
	}
	// Output:
	// Pear Drops: 2500 grams in stock
}
