package demo

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/openloop"
	"github.com/meshlite-go/meshlite/internal/shop"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

const (
	gentleRate = 8                // calls a second of ordinary customers
	hurryEvery = 10 * time.Second // one customer asks for more than the limit allows
	hurried    = "hurried"
)

// Customers shop at the storefront of a registry until ctx ends, gently: eight calls a
// second, and every ten seconds one customer who wants a little more at once than the
// limit of the contract allows. An error says why they could not begin.
func Customers(ctx context.Context, open *shop.Shop) error {
	allowed, err := contractLimit()
	if err != nil {
		return err
	}
	conn, err := meshlite.NewClient("consul:///storefront", open.Security(), meshlite.WithDirectory(open.Directory()),
		meshlite.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))))
	if err != nil {
		return err
	}
	defer conn.Close()
	l := newLoad(storefrontv1.NewStorefrontServiceClient(conn), allowed.key)
	visitor, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, l.customerKey, "visitor"), 10*time.Second)
	goods, err := look(visitor, l.shop)
	cancel()
	if err != nil {
		return fmt.Errorf("the shop cannot be looked at: %w", err)
	}
	l.gently(ctx, goods, int(allowed.burst)*5/4)
	return nil
}

// gently sends calls until ctx ends. How they end is seen in the shop.
func (l *load) gently(ctx context.Context, goods wares, atOnce int) {
	wanted, start := newWishes(goods), time.Now()
	l.loop.Go(ctx, start, openloop.Rate(gentleRate), func(n int, _ time.Time) func() {
		wish := wanted.nth(n)
		return func() { _ = l.ask(ctx, wish) }
	})
	popular := wish{customer: hurried, page: goods.pages[0]}
	every := func(t time.Duration) time.Duration { return t + hurryEvery }
	l.loop.Go(ctx, start, every, func(int, time.Time) func() {
		return func() {
			var calls sync.WaitGroup
			for range atOnce {
				calls.Go(func() { _ = l.ask(ctx, popular) })
			}
			calls.Wait()
		}
	})
	<-ctx.Done()
	l.finish()
}
