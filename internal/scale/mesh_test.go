package scale_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

func queryOf(service string) catalog.Query { return catalog.Query{Service: service} }

func ignore([]catalog.Instance) {}

var (
	background = context.Background()
	silent     = slog.New(slog.DiscardHandler)
)

// size is how large a mesh is. Each instance is a process and also a client: it has a channel
// to the hub, which all call, and to others that are drawn.
type size struct {
	services  int
	instances int
	channels  int // of each process, all to different services
	perNode   int // processes
	wide      int // instances of the service of which channels take a subset
	subset    int
	servers   int
	answers   int // a second, of each server
}

const (
	hub  = "hub"  // all processes call it
	wide = "wide" // it has more instances than a subset
)

// mesh is a running simulation.
type mesh struct {
	size size
	*servers
	t        testing.TB
	names    []string // of the other services
	random   *rand.Rand
	channels []*channel
	watchers map[string]int // channels by service
}

// newMesh registers all instances, and starts no process.
func newMesh(t testing.TB, s size) *mesh {
	m := &mesh{
		size: s, t: t, servers: newServers(s.servers, (s.instances+s.perNode-1)/s.perNode, s.answers),
		random: rand.New(rand.NewPCG(1, 2)), watchers: map[string]int{},
	}
	m.register(wide, s.wide)
	left := s.instances - s.wide
	for n := range s.services - 1 {
		name := hub
		if n > 0 {
			name = fmt.Sprintf("service-%d", n)
			m.names = append(m.names, name)
		}
		some := left / (s.services - 1 - n)
		m.register(name, some)
		left -= some
	}
	m.names = append(m.names, wide)
	return m
}

// start starts all processes in the same instant, with all their channels.
func (m *mesh) start() {
	for n := range m.size.instances {
		directory, err := consul.New(consul.Config{
			Address: fmt.Sprintf("agent-%d:8500", n/m.size.perNode), Transport: through{m.servers, n / m.size.perNode}, Logger: silent,
		})
		if err != nil {
			m.t.Fatal(err)
		}
		builder := resolver.NewBuilder(directory, resolver.WithLogger(silent), resolver.WithSubset(m.size.subset))
		called := []string{hub}
		for len(called) < m.size.channels {
			if name := m.names[m.random.IntN(len(m.names))]; !slices.Contains(called, name) {
				called = append(called, name)
			}
		}
		for _, name := range called {
			m.channels = append(m.channels, open(m.t, m.servers, builder, name))
			m.watchers[name]++
		}
	}
}

// stop ends all processes.
func (m *mesh) stop() {
	for _, c := range m.channels {
		c.close()
	}
	m.channels, m.watchers = nil, map[string]int{}
}

// ready returns how many channels have a picker that picks.
func (m *mesh) ready() (n int) {
	for _, c := range m.channels {
		if _, err := c.pick(); err == nil {
			n++
		}
	}
	return n
}

// strays returns how many of the channels pick an instance that is not registered.
func (m *mesh) strays() (n int) {
	for _, c := range m.channels {
		for range 3 {
			if i, err := c.pick(); err != nil || !i.registered {
				n++
				break
			}
		}
	}
	return n
}

// rolled is what a deploy looked like from the clients.
type rolled struct {
	changes                int
	lastAdded, lastRemoved time.Duration // from the change until the last client had followed, at most
}

// deploy replaces every instance of a service: a new one comes, an old one leaves, and so on, each
// change some time after the one before.
func (m *mesh) deploy(name string, every time.Duration) (r rolled) {
	for _, old := range slices.Clone(m.services[name].instances) {
		added := m.register(name, 1)[0]
		time.Sleep(every)
		m.deregister(name, old)
		time.Sleep(every)
		r.changes += 2
		defer func() {
			r.lastAdded = max(r.lastAdded, time.Duration(added.lastConnect.Load())-added.changedAt)
			r.lastRemoved = max(r.lastRemoved, time.Duration(old.lastDisconnect.Load())-old.changedAt)
			if n := old.open.Load(); n != 0 {
				m.t.Errorf("%d channels are still connected to an instance of %s that has left", n, name)
			}
		}()
	}
	time.Sleep(20 * time.Second)
	return r
}

// connections returns how many each instance of a service has: the mean, and the most.
func (m *mesh) connections(name string) (mean float64, most int64) {
	all := m.services[name].instances
	sum := int64(0)
	for _, i := range all {
		sum += i.open.Load()
		most = max(most, i.open.Load())
	}
	return float64(sum) / float64(len(all)), most
}
