package chaos

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

const (
	// twoHeartbeats is twice the longest time between two checks of an instance that it
	// is still registered.
	twoHeartbeats = 12 * time.Second
	// shortWait is what a client may wait for on a connection that has died in
	// silence: with it, the query on it is abandoned after 7.1 s.
	shortWait = 2 * time.Second

	// noticeable bounds the time until Consul's catalog shows a change.
	noticeable = 2 * time.Second

	resetEvery = 300 * time.Millisecond
	flapEvery  = 100 * time.Millisecond
	slowBy     = 500 * time.Millisecond
)

// rows are the faults in the order in which they are played.
func rows() []row {
	return append([]row{{
		// Case F8
		name: "consul-restarted", short: true, times: 2,
		does:   "Consul is killed and started empty, twice",
		inject: restartConsul,
		wanted: "all registered again", healed: allRegistered,
		aim: aim{heal: twoHeartbeats},
	}, {
		// Case R4
		name: "consul-stalled", short: true, lasts: 10 * time.Second, lastsShort: 3 * time.Second,
		does:   "Consul is stopped in its tracks by SIGSTOP, and goes on",
		inject: freezeConsul, heal: thawConsul,
		wanted: "all registered, and Consul says so", healed: allRegistered,
		aim: aim{heal: twoHeartbeats},
	}, {
		name: "consul-slow", lasts: 8 * time.Second, lastsShort: 3 * time.Second,
		does:   "what Consul and the client say to each other takes 0.5 s each way, and goes on so",
		needs:  needs{proxy: true},
		inject: slowConsul,
		wanted: "a new instance is called while Consul is slow", healed: newestCalled,
		aim: aim{heal: 5 * time.Second},
	}, {
		// Case R4
		name: "consul-silent", short: true, lasts: 10 * time.Second, lastsShort: 2 * time.Second,
		does:   "the client's connections to Consul swallow all and stay open; an instance is started meanwhile",
		needs:  needs{proxy: true, wait: shortWait},
		inject: silenceConsul, heal: healProxy,
		wanted: "the new instance is called", healed: newestCalled,
		aim: aim{heal: 10 * time.Second},
	}, {
		name: "consul-resets", lasts: 8 * time.Second, lastsShort: 3 * time.Second,
		does:   "the client's connections to Consul are reset every 300 ms; an instance is started meanwhile",
		needs:  needs{proxy: true},
		inject: resetConnections,
		wanted: "the new instance is called", healed: newestCalled,
		aim: aim{heal: 5 * time.Second},
	}, {
		// Case F7
		name: "health-flaps", short: true, lasts: 20 * time.Second, lastsShort: 5 * time.Second,
		does:   "the health of one instance changes every 100 ms",
		inject: flapHealth, heal: steadyHealth,
		wanted: "all registered", healed: allRegistered,
		aim: aim{heal: 2 * time.Second},
	}, {
		// Case R7
		name: "all-deregistered", short: true,
		does:   "all instances are deregistered through Consul's API",
		inject: deregisterAll,
		wanted: "all registered again", healed: allRegistered,
		aim: aim{heal: twoHeartbeats},
	}, {
		// Case G4
		name: "instance-killed", short: true,
		does:   "one instance is killed with SIGKILL",
		inject: killInstance,
		wanted: "Consul no longer says that it passes", healed: killedIsOut,
		aim: aim{heal: 10 * time.Second, inFlight: true},
	}, {
		// Case F3
		name: "instance-stalled", short: true, lasts: 4 * time.Second, lastsShort: 4 * time.Second,
		does:   "one instance is stopped in its tracks by SIGSTOP, and goes on",
		inject: freezeInstance, heal: thawInstance,
		wanted: "it is called again", healed: stalledCalled,
		aim: aim{heal: 20 * time.Second, failed: 10},
	}, {
		// Case F4
		name: "instance-failing", short: true, lasts: 20 * time.Second, lastsShort: 5 * time.Second,
		does:   "a fourth instance is started, which answers INTERNAL at once, and is fixed",
		inject: startFailing, heal: fixFailing,
		wanted: "it is called again", healed: fixedCalled,
		aim: aim{heal: 20 * time.Second, failed: 12},
	}, {
		name: "instance-refusing", lasts: 20 * time.Second, lastsShort: 5 * time.Second,
		does:   "a fourth instance is started, which refuses all calls for ten years, and is fixed",
		inject: startRefusing, heal: fixFailing,
		wanted: "it is called again", healed: fixedCalled,
		// One more if calls were in flight to it when it was detected.
		aim: aim{heal: 35 * time.Second, failed: 5},
	}, {
		// Case X17
		name: "wrong-program", short: true, lasts: 20 * time.Second, lastsShort: 5 * time.Second,
		does:   "a program without the service is registered at a fourth address, passes its checks, and is stopped",
		needs:  needs{elsewhere: true},
		inject: startWrong, heal: stopWrong,
		wanted: "Consul no longer lists it", healed: allRegistered,
		aim: aim{heal: 2 * time.Second},
	}, {
		name:   "rolling-restart",
		does:   "every instance is stopped in order and another started in its place",
		inject: restartInstances,
		wanted: "all new ones are called", healed: allCalled,
		aim: aim{heal: 2 * time.Second},
	}, {
		// Case R19
		name: "start-without-consul", short: true, lasts: 4 * time.Second, lastsShort: 2 * time.Second,
		does:    "a client with a snapshot on disk starts while Consul is down",
		needs:   needs{snapshots: true},
		prepare: leaveSnapshot,
		inject:  startWithoutConsul, heal: startConsul,
		wanted: "all registered again", healed: allRegistered,
		aim: aim{heal: twoHeartbeats},
	}}, slices.Concat(orchestratorRows(), routeRows(), canaryRows(), datacenterRows(), adviceRows(), networkRows())...)
}

func names() string {
	var all []string
	for _, r := range rows() {
		all = append(all, r.name)
	}
	return strings.Join(all, ", ")
}

// The states that are wanted.

func allRegistered(ctx context.Context, s *scene) bool { return s.registered(ctx) }

func newestCalled(_ context.Context, s *scene) bool {
	return s.customer.tally.answers(s.newest.Address, time.Time{})
}

func allCalled(_ context.Context, s *scene) bool { return s.called(time.Time{}) }

func killedIsOut(ctx context.Context, s *scene) bool {
	passing, err := s.agent.passing(ctx, service)
	return err == nil && !passing[s.killed.Address]
}

// The faults.

func restartConsul(ctx context.Context, s *scene) error {
	s.say("consul is killed and started empty")
	return s.consul.Restart(ctx)
}

func startConsul(ctx context.Context, s *scene) error { return s.consul.Start(ctx) }

func freezeConsul(ctx context.Context, s *scene) error {
	s.say("consul is stalled for %v", s.lasts)
	if err := s.consul.Freeze(); err != nil {
		return err
	}
	return pause(ctx, s.lasts)
}

func thawConsul(_ context.Context, s *scene) error { return s.consul.Thaw() }

func healProxy(_ context.Context, s *scene) error {
	s.proxy.Heal()
	return nil
}

func slowConsul(ctx context.Context, s *scene) error {
	s.say("consul is slow by %v each way", slowBy)
	s.proxy.Slow(slowBy, 0)
	if err := pause(ctx, s.lasts); err != nil {
		return err
	}
	return startNewest(ctx, s)
}

func silenceConsul(ctx context.Context, s *scene) error {
	s.say("the connections to consul are silent for %v or more", s.lasts)
	s.proxy.Blackhole()
	if err := whileItLasts(ctx, s, func() error { return startNewest(ctx, s) }); err != nil {
		return err
	}
	if newestCalled(ctx, s) {
		return fmt.Errorf("the client has received %s, so its connections were not silent", s.newest.ID)
	}
	return nil
}

func resetConnections(ctx context.Context, s *scene) error {
	s.say("the connections to consul are reset every %v for %v", resetEvery, s.lasts)
	var started sync.WaitGroup
	var err error
	started.Go(func() { err = startNewest(ctx, s) })
	again := every(ctx, resetEvery, s.lasts, func(int) error { s.proxy.Reset(); return nil })
	started.Wait()
	if again != nil {
		return again
	}
	return err
}

func startNewest(ctx context.Context, s *scene) (err error) {
	s.newest, err = s.start(ctx)
	return err
}

func flapHealth(ctx context.Context, s *scene) error {
	victim := s.living[0]
	s.touched[victim.Address] = true
	s.say("%s is well and ill every %v for %v", victim.ID, flapEvery, s.lasts)
	return every(ctx, flapEvery, s.lasts, func(n int) error { return s.agent.maintain(ctx, victim.ID, n%2 == 0) })
}

func steadyHealth(ctx context.Context, s *scene) error {
	victim := s.living[0]
	s.say("%s was connected %d times", victim.ID, s.customer.tally.dials(victim.Address))
	return s.agent.maintain(ctx, victim.ID, false)
}

func deregisterAll(ctx context.Context, s *scene) error {
	s.say("all instances are deregistered")
	s.touchAll()
	for _, i := range s.living {
		if err := s.agent.deregister(ctx, i.ID); err != nil {
			return err
		}
	}
	// The agent answers before its catalog has changed: a check now would find it healed.
	if _, err := await(ctx, noticeable, func(ctx context.Context) bool { return !s.registered(ctx) }); err != nil {
		return fmt.Errorf("all instances were deregistered, but Consul still lists them: %w", err)
	}
	return nil
}

func killInstance(_ context.Context, s *scene) error {
	s.killed = s.oldest()
	s.touched[s.killed.Address] = true
	if err := s.killed.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", s.killed.ID, err)
	}
	s.ended = time.Now()
	s.say("%s is killed", s.killed.ID)
	return nil
}

func freezeInstance(ctx context.Context, s *scene) error {
	s.stalled = s.living[0]
	s.touched[s.stalled.Address] = true
	s.say("%s is stalled for %v", s.stalled.ID, s.lasts)
	if err := s.stalled.Freeze(); err != nil {
		return err
	}
	return pause(ctx, s.lasts)
}

func thawInstance(_ context.Context, s *scene) error {
	s.ended = time.Now()
	return s.stalled.Thaw()
}

func stalledCalled(_ context.Context, s *scene) bool {
	return s.customer.tally.answers(s.stalled.Address, s.ended)
}

func startFailing(ctx context.Context, s *scene) error {
	f := &failer{failure: outOfOrder}
	return playFailer(ctx, s, f, f, "a fourth instance is started, which fails all calls")
}

func startRefusing(ctx context.Context, s *scene) error {
	f := &failer{failure: refused(10 * 365 * 24 * time.Hour)}
	return playFailer(ctx, s, f, f, "a fourth instance is started, which refuses all calls for ten years")
}

func startWrong(ctx context.Context, s *scene) error {
	return playFailer(ctx, s, &failer{}, nil, "a program without the service is at a fourth address")
}

func stopWrong(_ context.Context, s *scene) error {
	s.failing.stop()
	return nil
}

// playFailer runs f with a service, or without one if it is nil, and lets it last.
func playFailer(ctx context.Context, s *scene, f *failer, service catalogv1.CatalogServiceServer, does string) error {
	if err := f.start(s.consul.Address, service); err != nil {
		return err
	}
	s.failing = f
	s.touched[s.failing.address] = true
	if _, err := await(ctx, wholePatience, s.failerPasses); err != nil {
		s.failing.stop()
		return fmt.Errorf("the failing instance does not pass in Consul: %w", cmp.Or(s.failing.err, err))
	}
	s.say("%s for %v", does, s.lasts)
	return pause(ctx, s.lasts)
}

func (s *scene) failerPasses(ctx context.Context) bool {
	passing, err := s.agent.passing(ctx, service)
	return err == nil && passing[s.failing.address]
}

func fixFailing(_ context.Context, s *scene) error {
	s.ended = time.Now()
	s.failing.mend()
	return nil
}

func fixedCalled(_ context.Context, s *scene) bool {
	return s.customer.tally.answers(s.failing.address, s.ended)
}

func restartInstances(ctx context.Context, s *scene) error {
	for range size {
		if err := s.replaceOldest(ctx); err != nil {
			return err
		}
		if _, err := s.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// leaveSnapshot runs a first client until it has written a snapshot.
func leaveSnapshot(ctx context.Context, s *scene) error {
	if err := steady(ctx, s); err != nil {
		return err
	}
	return s.renew()
}

func startWithoutConsul(ctx context.Context, s *scene) error {
	s.consul.Kill()
	s.say("consul is killed, and a new client starts")
	s.customer.begin(ctx)
	return pause(ctx, s.lasts)
}

// whileItLasts does something within the length of the fault, or makes it longer.
func whileItLasts(ctx context.Context, s *scene, do func() error) error {
	begin := time.Now()
	if err := do(); err != nil {
		return err
	}
	return pause(ctx, s.lasts-time.Since(begin))
}

// every does something again and again for a time, and stops when it fails.
func every(ctx context.Context, interval, lasts time.Duration, do func(n int) error) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for n := range int(lasts / interval) {
		if err := do(n); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
