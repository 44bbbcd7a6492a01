package demo

import (
	"context"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/internal/openloop"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

const (
	ordinaryRate = 240 // calls a second of all ordinary customers, before it doubles
	abusiveRate  = 150 // calls a second of the abusive one
	abuser       = "abuser"

	maxInFlight = 2000
	callTimeout = 3 * time.Second
)

// load is the traffic of the story. It owns its goroutines: wait for them.
type load struct {
	shop        storefrontv1.StorefrontServiceClient
	door        storefrontv1.StorefrontServiceClient // through the gateway; nil is none
	customerKey string
	tally       *tally

	slower int  // rates are divided by this, for slow programs
	polite bool // the abusive customer does not come

	start time.Time
	loop  *openloop.Loop
}

func newLoad(shop storefrontv1.StorefrontServiceClient, customerKey string) *load {
	return &load{
		shop: shop, customerKey: customerKey, tally: newTally(), slower: 1,
		loop: openloop.New(maxInFlight),
	}
}

// begin sends calls until finish, or until ctx ends. length is that of the story.
func (l *load) begin(ctx context.Context, goods wares, length time.Duration) {
	l.start = time.Now()
	wanted := newWishes(goods)
	rising := schedule{rate: ordinaryRate / l.slower, doubles: length / 3}
	l.loop.Go(ctx, l.start, rising.after, func(n int, due time.Time) func() {
		wish := wanted.nth(n)
		return func() { l.ordinary(ctx, wish, due, length) }
	})
	if l.polite {
		return
	}
	popular := wish{customer: abuser, page: goods.pages[0]}
	l.loop.Go(ctx, l.start, openloop.Rate(abusiveRate/l.slower), func(int, time.Time) func() {
		return func() { l.abusive(ctx, popular) }
	})
}

// finish lets the calls in flight end. They have a deadline.
func (l *load) finish() { l.loop.Finish() }

// ordinary makes one call of an ordinary customer. It belongs to the phase in
// which it was sent; its latency counts from when it was due.
func (l *load) ordinary(ctx context.Context, w wish, due time.Time, length time.Duration) {
	now := time.Now()
	p := phaseAt(now.Sub(l.start), length)
	l.tally.sent(p, w, now.Sub(due))
	err := l.ask(ctx, w)
	if ctx.Err() != nil {
		return // the demo was stopped, which is no failure of the service
	}
	l.tally.done(p, time.Since(due), err)
}

func (l *load) abusive(ctx context.Context, w wish) {
	sent := time.Now()
	err := l.ask(ctx, w)
	if ctx.Err() == nil {
		l.tally.abused(sent, err)
	}
}

func (l *load) ask(ctx context.Context, w wish) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	shop := l.shop
	if w.door && l.door != nil {
		shop = l.door
	}
	return w.ask(metadata.AppendToOutgoingContext(ctx, l.customerKey, w.customer), shop)
}
