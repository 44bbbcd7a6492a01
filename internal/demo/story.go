package demo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/internal/shop"
)

const (
	joinPoll     = 15 * time.Millisecond
	joinPatience = 5 * time.Second
	stopPatience = 15 * time.Second // an instance drains before it ends
)

// The catalogs are alike and called in turn. The inventories take their time, the
// second one most, and the one with the fewest calls in flight is called.
var (
	quickInventory   = []string{"--latency=2ms", "--jitter=2ms"}
	slowInventory    = []string{"--latency=8ms", "--jitter=4ms"}
	storefrontTarget = []string{"--catalog=consul:///catalog?policy=round_robin", "--reflection"}
)

// story is what happens in the shop while customers come.
type story struct {
	shop   *shop.Shop
	fleet  *fleet
	length time.Duration
	say    func(format string, args ...any)

	customerKey string         // metadata key that names the customer
	gateway     *shop.Instance // through which a third of the customers come
	start       time.Time
	joined      time.Duration     // of the slowest new replica
	caches      [phases + 1]Cache // at the begin of each phase, and at the end
}

// open starts the shop as it is in the evening: two catalogs and two
// inventories, then a storefront.
func (s *story) open(ctx context.Context) error {
	s.say("starting 2 catalogs, 2 inventories, a storefront and a gateway")
	_, err := s.startAll(ctx,
		request{"catalog", nil}, request{"catalog", nil},
		request{"inventory", quickInventory}, request{"inventory", slowInventory})
	if err == nil {
		_, err = s.startAll(ctx, request{"storefront", storefrontTarget})
	}
	if err == nil {
		s.gateway, err = s.shop.Start(ctx, shop.Gateway, "storefront", "--forward-header="+s.customerKey)
	}
	return err
}

// request is an instance to start.
type request struct {
	service string
	args    []string
}

// startAll starts instances at once. They join in the order of the requests.
func (s *story) startAll(ctx context.Context, requests ...request) ([]*member, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	instances := make([]*shop.Instance, len(requests))
	errs := make([]error, len(requests))
	var all sync.WaitGroup
	for i, r := range requests {
		all.Go(func() {
			if instances[i], errs[i] = s.shop.Start(ctx, r.service, r.args...); errs[i] != nil {
				cancel() // the others need not go on
			}
		})
	}
	all.Wait()
	if err := firstError(errs); err != nil {
		return nil, err
	}
	members := make([]*member, len(requests))
	for i, instance := range instances {
		members[i] = s.fleet.join(instance)
	}
	return members, nil
}

// firstError prefers a reason to the cancellation that it caused.
func firstError(errs []error) error {
	var first error
	for _, err := range errs {
		if err != nil && (first == nil || errors.Is(first, context.Canceled)) {
			first = err
		}
	}
	return first
}

// play runs the events of the night. The load began at start.
func (s *story) play(ctx context.Context, start time.Time) error {
	s.start = start
	s.event("steady: %d calls/s of %d customers, and %d calls/s of one abusive customer", ordinaryRate, customers, abusiveRate)
	for _, step := range []struct {
		phase phase
		run   func(context.Context) error
	}{{doubled, s.double}, {faults, s.fault}} {
		if err := s.until(ctx, s.length*time.Duration(step.phase)/3); err != nil {
			return err
		}
		s.caches[step.phase] = s.cachesNow(ctx)
		if err := step.run(ctx); err != nil {
			return err
		}
	}
	// The last restart is part of the story: customers come to it, too.
	err := s.until(ctx, max(s.length, time.Since(s.start)+settle))
	s.caches[phases] = s.cachesNow(ctx)
	return err
}

// event reports what happened and when.
func (s *story) event(format string, args ...any) {
	s.say("%5.1fs  %s", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

func (s *story) cachesNow(ctx context.Context) Cache {
	s.fleet.sample(ctx)
	return s.fleet.caches()
}

// until waits for a time since the start, which may be over.
func (s *story) until(ctx context.Context, since time.Duration) error {
	timer := time.NewTimer(time.Until(s.start.Add(since)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// double starts a third catalog and inventory and measures how long calls take to
// find them.
func (s *story) double(ctx context.Context) error {
	s.event("doubled: %d calls/s; a third catalog and inventory start", 2*ordinaryRate)
	members, err := s.startAll(ctx, request{"catalog", nil}, request{"inventory", quickInventory})
	if err != nil {
		return err
	}
	took := make([]time.Duration, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() {
			took[i] = s.firstCall(ctx, m)
			s.event("%s has joined: first call %s after it registered", m.name, millis(took[i]))
		})
	}
	all.Wait()
	for _, d := range took {
		s.joined = max(s.joined, d)
	}
	return ctx.Err()
}

// firstCall is the time from a registration until the instance's metrics count a call, or
// until patience ends.
func (s *story) firstCall(ctx context.Context, m *member) time.Duration {
	ticker := time.NewTicker(joinPoll)
	defer ticker.Stop()
	for {
		answer, err := s.fleet.scraper.scrape(ctx, m.Service, m.Metrics)
		since := time.Since(m.Registered)
		if err == nil && answer.calls > 0 || since > joinPatience {
			return since
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return since
		}
	}
}

// fault kills a catalog and then restarts every inventory, one by one.
func (s *story) fault(ctx context.Context) error {
	victim := s.fleet.living("catalog")[0]
	s.event("faults: %s is killed with SIGKILL", victim.name)
	s.fleet.leave(ctx, victim, "killed")
	if err := victim.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", victim.name, err)
	}
	s.fleet.buried(victim)
	for _, m := range s.fleet.living("inventory") {
		if err := s.restart(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// restart stops an instance in order and starts another in its place.
func (s *story) restart(ctx context.Context, m *member) error {
	begin := time.Now()
	s.fleet.leave(ctx, m, "restarted")
	m.Stop(stopPatience)
	s.fleet.buried(m)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	members, err := s.startAll(ctx, request{m.Service, m.Args()})
	if err != nil {
		return err
	}
	s.event("%s is restarted as %s in %.1fs", m.name, members[0].name, time.Since(begin).Seconds())
	return nil
}
