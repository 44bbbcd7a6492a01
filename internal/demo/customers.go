package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

const (
	customers  = 40  // ordinary ones
	orderEvery = 10  // calls
	maxPages   = 200 // that are looked at before the load, whatever the shop says
	maxGrams   = 500 // of one order
)

// wares are what customers can ask for.
type wares struct {
	pages  []*storefrontv1.BrowseRequest
	sweets []string
}

// look walks through the shop once, as a customer who reads all its pages.
func look(ctx context.Context, shop storefrontv1.StorefrontServiceClient) (wares, error) {
	var w wares
	sections := []string{""} // all sections; its pages name the others
	for i := 0; i < len(sections); i++ {
		request := &storefrontv1.BrowseRequest{Section: sections[i]}
		for request != nil {
			page, err := shop.Browse(ctx, request)
			if err != nil {
				return w, fmt.Errorf("page %q of section %q: %w", request.PageToken, request.Section, err)
			}
			w.pages = append(w.pages, request)
			for _, offer := range page.GetOffers() {
				if i == 0 {
					w.sweets = append(w.sweets, offer.GetSweet().GetId())
				}
				if section := offer.GetSweet().GetSection(); !slices.Contains(sections, section) {
					sections = append(sections, section)
				}
			}
			request = next(sections[i], page, len(w.pages))
		}
	}
	if len(w.pages) == 0 || len(w.sweets) == 0 {
		return w, fmt.Errorf("the shop shows %d pages and %d sweets: nothing to ask for", len(w.pages), len(w.sweets))
	}
	return w, nil
}

func next(section string, page *storefrontv1.BrowseResponse, seen int) *storefrontv1.BrowseRequest {
	if page.GetNextPageToken() == "" || seen >= maxPages {
		return nil
	}
	return &storefrontv1.BrowseRequest{Section: section, PageToken: page.GetNextPageToken()}
}

// wish is one call of a customer: a page or an order.
type wish struct {
	customer string
	door     bool // whether the customer comes through the gateway
	page     *storefrontv1.BrowseRequest
	order    *storefrontv1.PlaceOrderRequest
}

// wishes are the calls of ordinary customers, in order. A few pages and sweets are popular
// and most are not (Zipf), so that caching helps.
type wishes struct {
	wares
	random        *rand.Rand
	pages, sweets *rand.Zipf
}

func newWishes(w wares) *wishes {
	random := rand.New(rand.NewPCG(1, 2)) // the same story each time
	return &wishes{
		wares: w, random: random,
		pages:  rand.NewZipf(random, 1.1, 2, uint64(len(w.pages)-1)),
		sweets: rand.NewZipf(random, 1.1, 8, uint64(len(w.sweets)-1)),
	}
}

// nth is the n-th wish: every tenth is an order.
func (w *wishes) nth(n int) wish {
	customer := w.random.IntN(customers)
	wanted := wish{customer: fmt.Sprintf("customer-%02d", customer), door: customer%doorEvery == 0}
	if n%orderEvery == 0 {
		wanted.order = &storefrontv1.PlaceOrderRequest{
			SweetId: w.wares.sweets[w.sweets.Uint64()],
			Grams:   1 + w.random.Uint32N(maxGrams),
		}
		return wanted
	}
	wanted.page = w.wares.pages[w.pages.Uint64()]
	return wanted
}

func (w wish) ask(ctx context.Context, shop storefrontv1.StorefrontServiceClient) error {
	if w.order != nil {
		_, err := shop.PlaceOrder(ctx, w.order)
		return err
	}
	_, err := shop.Browse(ctx, w.page)
	return err
}
