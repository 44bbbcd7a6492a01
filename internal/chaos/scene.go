package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/meshlite-go/meshlite/internal/faultproxy"
	"github.com/meshlite-go/meshlite/internal/shop"
)

const (
	calm          = 500 * time.Millisecond // of load before and after a fault
	wholePatience = 20 * time.Second       // for a mesh to be whole
)

// scene is a row while it is played.
type scene struct {
	*mesh
	row   row
	lasts time.Duration
	shown *board

	customer *customer
	proxy    *faultproxy.Proxy // nil unless the row needs one
	folder   string            // of snapshots, empty unless the row needs them

	touched map[string]bool // addresses of instances that the fault concerns
	newest  *shop.Instance  // started during the fault
	killed  *shop.Instance
	stalled *shop.Instance
	failing *failer
	silent  net.Listener // of registrations that never answer
	dead    []string     // ids of registrations without an instance
	ended   time.Time    // of what was killed, or of what was wrong with an instance

	healedAt time.Time   // when the wanted state was reached
	second   *datacenter // nil unless the row has one

	beside      []string        // ids of registrations that an orchestrator has made
	arms        arms            // that calls are routed to, nil for none
	to          string          // the arm that has all calls
	wroteAt     time.Time       // when that was written
	moves       []time.Duration // how long after it the last call was sent to another arm
	figures     string          // what was measured beside the time to heal
	reconnected []string        // what there was to say of connections before arms were given up

	counted   map[string]uint64 // calls that each instance had answered by countedAt
	countedAt time.Time
}

// play makes one fault and judges it. The error says why the rest cannot be
// played: what the row needs is not there, the mesh is not whole after it, which the
// judgement says too, or ctx has ended.
func (m *mesh) play(ctx context.Context, r row, short bool, shown *board) (Fault, error) {
	s := &scene{mesh: m, row: r, lasts: r.length(short), shown: shown, touched: map[string]bool{}}
	defer s.leave()
	if err := s.enter(); err != nil {
		return Fault{}, err
	}
	took, err := s.perform(ctx)
	broken := s.restore(ctx)
	if ctx.Err() != nil {
		return Fault{}, ctx.Err()
	}
	seen := s.customer.tally
	s.dismiss()
	return s.judge(seen, took, err, broken), broken
}

// enter makes what the row needs.
func (s *scene) enter() (err error) {
	if s.row.needs.proxy {
		if s.proxy, err = faultproxy.Listen(s.consul.Address); err != nil {
			return err
		}
	}
	if s.row.needs.snapshots {
		if s.folder, err = os.MkdirTemp("", "meshlite-chaos-"); err != nil {
			return err
		}
	}
	return s.renew()
}

// renew puts a new customer in the place of the one that there was.
func (s *scene) renew() error {
	s.dismiss()
	address := s.consul.Address
	if s.proxy != nil {
		address = s.proxy.Address()
	}
	c, err := newCustomer(s.site.client(), address, s.row.needs, s.folder, s.log)
	if err != nil {
		return err
	}
	s.customer = c
	s.shown.follow(s.row.name, c.tally)
	return nil
}

func (s *scene) dismiss() {
	if s.customer != nil {
		s.customer.end()
		s.customer = nil
	}
}

func (s *scene) leave() {
	s.dismiss()
	if s.stalled != nil {
		_ = s.stalled.Thaw() // the fault may have been interrupted
	}
	if s.failing != nil {
		s.failing.stop()
	}
	if s.silent != nil {
		s.silent.Close()
	}
	s.second.close()
	if s.proxy != nil {
		s.proxy.Close()
	}
	for _, id := range s.beside {
		// What is left is a registration that nobody asks for.
		_ = s.agent.deregister(context.Background(), id)
	}
	if s.folder != "" {
		_ = os.RemoveAll(s.folder) // a temporary folder; the next start of the machine takes it
	}
}

// perform makes the fault as often as the row says, and answers the longest time
// to heal.
func (s *scene) perform(ctx context.Context) (took time.Duration, err error) {
	prepare := s.row.prepare
	if prepare == nil {
		prepare = steady
	}
	if err := prepare(ctx, s); err != nil {
		return 0, fmt.Errorf("before the fault: %w", err)
	}
	for range max(s.row.times, 1) {
		once, err := s.once(ctx)
		took = max(took, once)
		if err != nil {
			return took, err
		}
	}
	return took, nil
}

func (s *scene) once(ctx context.Context) (time.Duration, error) {
	if err := s.row.inject(ctx, s); err != nil {
		return 0, err
	}
	if s.row.heal != nil {
		if err := s.row.heal(ctx, s); err != nil {
			return 0, err
		}
	}
	took, err := await(ctx, s.row.aim.heal+wholePatience, func(ctx context.Context) bool { return s.row.healed(ctx, s) })
	s.healedAt = time.Now()
	s.say("%s: %s after %.1fs", s.row.name, s.row.wanted, took.Seconds())
	if errors.Is(err, errPatience) {
		err = nil // the measured time exceeds the aim
	}
	if err == nil && s.row.judged != nil {
		err = s.row.judged(s)
	}
	return took, err
}

// steady begins the load and lets it go on without a fault.
func steady(ctx context.Context, s *scene) error {
	s.customer.begin(ctx)
	if err := s.whole(ctx); err != nil {
		return err
	}
	return pause(ctx, calm)
}

// restore brings the mesh back to its size, and waits until it is whole.
func (s *scene) restore(ctx context.Context) error {
	if s.proxy != nil {
		s.proxy.Heal()
	}
	if s.failing != nil {
		s.failing.stop()
	}
	if err := deregisterDead(ctx, s); err != nil { // the fault may have failed half way
		return err
	}
	for len(s.living) > size && ctx.Err() == nil {
		if err := s.replaceOldest(ctx); err != nil {
			return err
		}
	}
	for len(s.living) < size && ctx.Err() == nil {
		if _, err := s.start(ctx); err != nil {
			return err
		}
	}
	if err := unroute(ctx, s); err != nil {
		return err
	}
	if err := s.whole(ctx); err != nil {
		return err
	}
	return pause(ctx, calm)
}

// touchAll is for faults in which Consul loses its catalog. Instances return one by one,
// so a client may see a list without some of them.
func (s *scene) touchAll() {
	for _, i := range s.living {
		s.touched[i.Address] = true
	}
}

// replaceOldest stops the oldest instance, whose place a newer one has.
func (s *scene) replaceOldest(ctx context.Context) error {
	s.touched[s.living[0].Address] = true
	return s.retire(ctx)
}

// whole waits until all that live are passing in Consul and are called.
func (s *scene) whole(ctx context.Context) error {
	since := time.Now()
	if _, err := await(ctx, wholePatience, s.registered); err != nil {
		return fmt.Errorf("not all %d instances are passing in Consul: %w", size, err)
	}
	if _, err := await(ctx, wholePatience, func(context.Context) bool { return s.called(since) }); err != nil {
		return fmt.Errorf("not all %d instances are called: %w", size, err)
	}
	return nil
}

// called reports whether all that live have answered a call sent after since.
func (s *scene) called(since time.Time) bool {
	for _, i := range s.living {
		if !s.customer.tally.answers(i.Address, since) {
			return false
		}
	}
	return true
}
