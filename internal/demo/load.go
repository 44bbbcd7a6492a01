package demo

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

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
	customerKey string
	tally       *tally

	slower int // rates are divided by this, for slow programs

	start time.Time
	over  chan struct{} // closed when no call is to be sent any more
	work  sync.WaitGroup
	slots chan struct{} // one for each call in flight
}

func newLoad(shop storefrontv1.StorefrontServiceClient, customerKey string) *load {
	return &load{
		shop: shop, customerKey: customerKey, tally: newTally(), slower: 1,
		over:  make(chan struct{}),
		slots: make(chan struct{}, maxInFlight),
	}
}

// begin sends calls until finish, or until ctx ends. length is that of the story.
func (l *load) begin(ctx context.Context, goods wares, length time.Duration) {
	l.start = time.Now()
	wanted := newWishes(goods)
	l.work.Go(func() {
		l.loop(ctx, schedule{rate: ordinaryRate / l.slower, doubles: length / 3}, func(n int, due time.Time) func() {
			wish := wanted.nth(n)
			return func() { l.ordinary(ctx, wish, due, length) }
		})
	})
	popular := wish{customer: abuser, page: goods.pages[0]}
	l.work.Go(func() {
		l.loop(ctx, schedule{rate: abusiveRate / l.slower}, func(int, time.Time) func() {
			return func() { l.abusive(ctx, popular) }
		})
	})
}

// finish lets the calls in flight end. They have a deadline.
func (l *load) finish() {
	close(l.over)
	l.work.Wait()
}

// loop is an open loop: a call that could not be sent when it was due is sent as
// soon as it can be, and none is left out.
func (l *load) loop(ctx context.Context, s schedule, call func(n int, due time.Time) func()) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n, at := 0, time.Duration(0); ; n, at = n+1, s.after(at) {
		due := l.start.Add(at)
		timer.Reset(time.Until(due))
		select {
		case <-timer.C:
		case <-l.over:
			return
		case <-ctx.Done():
			return
		}
		do := call(n, due)
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		l.work.Go(func() {
			defer func() { <-l.slots }()
			do()
		})
	}
}

// ordinary makes one call of an ordinary customer. It belongs to the phase in
// which it was sent; its latency counts from when it was due.
func (l *load) ordinary(ctx context.Context, w wish, due time.Time, length time.Duration) {
	now := time.Now()
	p := phaseAt(now.Sub(l.start), length)
	l.tally.sent(p, w.order != nil, now.Sub(due))
	err := l.ask(ctx, w)
	if ctx.Err() != nil {
		return // the demo was stopped, which is nobody's failure
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
	return w.ask(metadata.AppendToOutgoingContext(ctx, l.customerKey, w.customer), l.shop)
}
