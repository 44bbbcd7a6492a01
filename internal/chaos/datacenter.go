package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/shop"
)

// The fault of a datacenter without instances, where a service-resolver names another one.

const (
	homeArm, awayArm = "dc1", "dc2"

	// failback is how long a target must be well to get back its calls, by default.
	failback   = 10 * time.Second
	sampleRate = 20 * time.Millisecond
)

// datacenterRows are among rows.
func datacenterRows() []row {
	return []row{{
		// Case T4
		name: "datacenter-lost", lasts: 5 * time.Second, lastsShort: time.Second,
		does:    "all instances of a datacenter are killed with SIGKILL, and started again at their addresses; calls are retried, and fail over to another datacenter, whose Consul is joined by WAN",
		needs:   needs{attempts: 3}, // as the contract of the service has
		prepare: openSecond,
		inject:  killDatacenter, heal: returnDatacenter,
		wanted: "all calls are at home again, having moved away and back once", healed: allAtHome, judged: movedOnce,
		aim: aim{heal: failback + 5*time.Second},
	}}
}

// datacenter is another one: its Consul and instances of the service.
type datacenter struct {
	consul    *consulagent.Agent
	shop      *shop.Shop
	instances []*shop.Instance
	swings    *swings
}

// close ends all of d. It may be nil, or opened in part.
func (d *datacenter) close() {
	if d == nil {
		return
	}
	d.swings.end()
	if d.shop != nil {
		d.shop.Close()
	}
	d.consul.Kill()
}

// openSecond starts another datacenter, to which calls fail over, and calls at home.
func openSecond(ctx context.Context, s *scene) error {
	s.say("another datacenter is started, with %d catalogs", size)
	consul, err := s.consul.StartBeside(ctx)
	if err != nil {
		return err
	}
	s.second = &datacenter{consul: consul}
	if s.second.shop, err = s.openShop(consul); err != nil {
		return err
	}
	for range size {
		i, err := s.second.shop.Start(ctx, service)
		if err != nil {
			return err
		}
		s.second.instances = append(s.second.instances, i)
	}
	s.arms = arms{homeArm: s.living, awayArm: s.second.instances}
	for _, entry := range []map[string]any{
		{"Kind": "service-defaults", "Name": service, "Protocol": "grpc"},
		{"Kind": "service-resolver", "Name": service, "Failover": map[string]any{"*": map[string]any{"Datacenters": []string{awayArm}}}},
	} {
		if err := s.agent.put(ctx, "/v1/config", entry); err != nil {
			return err
		}
	}
	if err := steady(ctx, s); err != nil {
		return err
	}
	if _, err := await(ctx, wholePatience, func(context.Context) bool { return s.customer.away() == 0 }); err != nil {
		return fmt.Errorf("the client does not report that no call fails over: %w", err)
	}
	s.second.swings = follow(s.customer.away)
	return nil
}

// killDatacenter kills all instances at home, and lets it last when all calls are away.
func killDatacenter(ctx context.Context, s *scene) error {
	s.arms[homeArm] = s.living
	s.touchAll()
	s.say("all %d catalogs are killed", len(s.living))
	var killing sync.WaitGroup
	killed := make([]error, len(s.living))
	for n, i := range s.living {
		killing.Go(func() { killed[n] = i.Kill() })
	}
	killing.Wait()
	if err := errors.Join(killed...); err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	s.living = nil
	took, err := await(ctx, wholePatience, func(context.Context) bool { return s.customer.away() == 1 })
	if err != nil {
		return fmt.Errorf("not all calls have failed over: %w", err)
	}
	s.figures = fmt.Sprintf("all calls were away after %.0f ms", inMillis(took))
	s.say("%s", s.figures)
	return pause(ctx, s.lasts)
}

// returnDatacenter starts them again.
func returnDatacenter(ctx context.Context, s *scene) error {
	for _, was := range s.arms[homeArm] {
		i, err := s.shop.StartAt(ctx, service, was.Address, was.Args()...)
		if err != nil {
			return err
		}
		s.living = append(s.living, i)
		s.say("%s is started again", i.ID)
	}
	s.ended = time.Now()
	return nil
}

// allAtHome reports whether those at home are called, and no other.
func allAtHome(_ context.Context, s *scene) bool {
	since := time.Now().Add(-moved)
	for _, i := range s.second.instances {
		if s.customer.tally.answers(i.Address, since) {
			return false
		}
	}
	return s.customer.away() == 0 && s.called(s.ended)
}

// movedOnce is an error if calls have moved back and forth.
func movedOnce(s *scene) error {
	s.second.swings.end()
	moves, turns := s.second.swings.read()
	s.figures += fmt.Sprintf("; their share has changed %d times, and turned %d times", moves, turns)
	if turns != 1 {
		return fmt.Errorf("the share of the calls that are away has turned %d times, not once", turns)
	}
	return nil
}

// swings counts how often a value changes, and how often it changes its direction.
type swings struct {
	stop func()

	mu           sync.Mutex
	last, change float64
	moves, turns int
}

// follow samples value until end.
func follow(value func() float64) *swings {
	w := &swings{last: value()}
	stop := make(chan struct{})
	var sampling sync.WaitGroup
	sampling.Go(func() {
		ticker := time.NewTicker(sampleRate)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				w.take(value())
			case <-stop:
				return
			}
		}
	})
	w.stop = sync.OnceFunc(func() { close(stop); sampling.Wait() })
	return w
}

func (w *swings) take(value float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change := value - w.last
	if change == 0 {
		return
	}
	w.moves++
	if change*w.change < 0 {
		w.turns++
	}
	w.last, w.change = value, change
}

func (w *swings) read() (moves, turns int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.moves, w.turns
}

// end stops sampling. w may be nil.
func (w *swings) end() {
	if w != nil {
		w.stop()
	}
}
