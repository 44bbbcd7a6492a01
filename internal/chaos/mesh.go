package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/shop"
)

const (
	size         = 3                // instances of a whole mesh
	stopPatience = 15 * time.Second // an instance drains before it ends
	pollEvery    = 50 * time.Millisecond
)

// mesh is what is broken: a Consul and instances of one service. One goroutine
// uses it.
type mesh struct {
	registry string // "consul 1.22.7"
	site     *site  // nil for this machine
	consul   *consulagent.Agent
	programs string // as in parts
	agent    agent
	shop     *shop.Shop
	living   []*shop.Instance // oldest first
	log      *slog.Logger
	trouble  *child.Tail // what the client library has logged
	say      func(format string, args ...any)
}

// parts are the programs of a mesh.
type parts struct {
	consul, version string
	programs        string // the folder of the service programs
}

func findParts(programs string) (p parts, err error) {
	p.programs = programs
	if p.consul, err = consulagent.Find(); err != nil {
		return p, fmt.Errorf("chaos needs a real Consul to break: %w", err)
	}
	if p.version, err = consulagent.Version(p.consul); err != nil {
		return p, err
	}
	return p, shop.Installed(programs)
}

// openMesh starts Consul and the instances, on hosts of their own if there is a site. The
// mesh owns it.
func openMesh(ctx context.Context, p parts, at *site, trouble *child.Tail, say func(string, ...any)) (_ *mesh, err error) {
	say("starting consul %s and %d catalogs%s", p.version, size, at.words())
	m := &mesh{registry: "consul " + p.version, site: at, programs: p.programs, trouble: trouble, say: say}
	m.log = slog.New(slog.NewTextHandler(m.trouble, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if m.consul, err = consulagent.StartOn(ctx, at.consul(), p.consul); err != nil {
		at.close()
		return nil, err
	}
	m.agent = newAgent(m.consul.Address, at.consul())
	if m.shop, err = m.openShop(m.consul); err != nil {
		m.consul.Kill()
		at.close()
		return nil, err
	}
	for err == nil && len(m.living) < size {
		_, err = m.start(ctx)
	}
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// openShop makes a shop of what registers with an agent.
func (m *mesh) openShop(at *consulagent.Agent) (*shop.Shop, error) {
	return shop.Open(&shop.Registry{Name: m.registry, Address: at.Address, Transport: directoryTransport(m.site.consul())}, shop.Options{Dir: m.programs})
}

// close ends all processes and waits.
func (m *mesh) close() {
	_ = m.consul.Thaw() // a fault may have been interrupted
	m.site.heal()
	m.shop.Close()
	m.consul.Kill()
	m.site.close()
}

// start adds an instance and returns when Consul lists it.
func (m *mesh) start(ctx context.Context) (*shop.Instance, error) {
	i, err := m.shop.StartOn(ctx, m.site.next(m.living), service)
	if err == nil {
		m.living = append(m.living, i)
		m.say("%s is started", i.ID)
	}
	return i, err
}

// oldest is taken out of the living, to be stopped or killed.
func (m *mesh) oldest() *shop.Instance {
	i := m.living[0]
	m.living = m.living[1:]
	return i
}

// retire stops the oldest instance in order.
func (m *mesh) retire(ctx context.Context) error {
	i := m.oldest()
	i.Stop(stopPatience)
	m.say("%s is stopped in order", i.ID)
	return ctx.Err()
}

// registered reports whether Consul lists exactly the running instances.
func (m *mesh) registered(ctx context.Context) bool {
	passing, err := m.agent.passing(ctx, service)
	if err != nil || len(passing) != len(m.living) {
		return false
	}
	for _, i := range m.living {
		if !passing[i.Address] {
			return false
		}
	}
	return true
}

var errPatience = errors.New("patience has ended")

// await polls until reached, and returns how long it took.
func await(ctx context.Context, patience time.Duration, reached func(context.Context) bool) (time.Duration, error) {
	begin := time.Now()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		if reached(ctx) {
			return time.Since(begin), nil
		}
		if time.Since(begin) > patience {
			return time.Since(begin), errPatience
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return time.Since(begin), ctx.Err()
		}
	}
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
