package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/meshlite-go/meshlite/internal/hosts"
	"github.com/meshlite-go/meshlite/internal/shop"
)

// The faults in which packets are lost, and nobody says so. The client, Consul and the instances
// are on hosts of their own, all but one instance on one.

const (
	loss  = 0.01
	delay = 50 * time.Millisecond // each way

	// farHeal is the aim for an instance that was out of reach: an ejection of 20 s, to which
	// its first failed probe leads, and the first call of its slow start.
	farHeal = 25 * time.Second
)

// networkRows are among rows.
func networkRows() []row {
	return []row{{
		name: "host-unreachable", lasts: 30 * time.Second, lastsShort: 10 * time.Second,
		does:   "all packets from and to the host of one instance are dropped",
		needs:  needs{hosts: true},
		inject: isolateFar, heal: healNetwork,
		wanted: "it is called again", healed: farCalled,
		aim: aim{heal: farHeal, failed: 12},
	}, {
		name: "host-unreachable-retried", lasts: 30 * time.Second, lastsShort: 10 * time.Second,
		does:   "the same, and calls are retried; one attempt has " + attemptTimeout,
		needs:  needs{hosts: true, attempts: 2},
		inject: isolateFar, heal: healNetwork,
		wanted: "it is called again", healed: farCalled,
		aim: aim{heal: farHeal},
	}, {
		name: "one-way-loss", lasts: 30 * time.Second, lastsShort: 10 * time.Second,
		does:   "what the host of one instance sends to the client is dropped; it receives all, and passes its checks",
		needs:  needs{hosts: true},
		inject: silenceFar, heal: healNetwork,
		wanted: "it is called again", healed: farCalled,
		aim: aim{heal: farHeal, failed: 12},
	}, {
		name: "agent-unreachable", lasts: time.Minute, lastsShort: 15 * time.Second,
		does:   "all packets from and to Consul's host are dropped; an instance is started after that",
		needs:  needs{hosts: true},
		inject: isolateConsul, heal: healAndStart,
		wanted: "all are registered, and the new one is called", healed: newestFollowed,
		aim: aim{heal: twoHeartbeats},
	}, {
		name: "loss-and-delay", lasts: 20 * time.Second, lastsShort: 8 * time.Second,
		does:   fmt.Sprintf("%.0f %% of all packets are lost, and all take %v", 100*loss, delay),
		needs:  needs{hosts: true},
		inject: slowNetwork, heal: healNetwork,
		wanted: "all registered", healed: allRegistered,
		aim: aim{heal: 2 * time.Second},
	}}
}

// site is the hosts of a mesh. A nil one is this machine.
type site struct {
	network *hosts.Network
	hosts   []*hosts.Host // client, consul, near, far
}

func openSite() (*site, error) {
	network, all, err := hosts.Open(4)
	return &site{network, all}, err
}

func (s *site) host(n int) *hosts.Host {
	if s == nil {
		return nil
	}
	return s.hosts[n]
}

func (s *site) client() *hosts.Host { return s.host(0) }
func (s *site) consul() *hosts.Host { return s.host(1) }
func (s *site) near() *hosts.Host   { return s.host(2) }
func (s *site) far() *hosts.Host    { return s.host(3) }

// next is where the next instance is started: the last one of a whole mesh is far, unless one is.
func (s *site) next(living []*shop.Instance) *hosts.Host {
	if len(living) == size-1 && on(s.far(), living) == nil {
		return s.far()
	}
	return s.near()
}

func (s *site) words() string {
	if s == nil {
		return ""
	}
	return " on hosts of their own"
}

func (s *site) heal() {
	if s != nil {
		s.network.BreakAll(hosts.Fault{})
	}
}

func (s *site) close() {
	if s != nil {
		s.network.Close()
	}
}

// on is the instance on a host, nil if there is none.
func on(host *hosts.Host, living []*shop.Instance) *shop.Instance {
	for _, i := range living {
		if i.Host == host {
			return i
		}
	}
	return nil
}

// concernFar returns the instance that is far, and notes that the fault concerns it.
func concernFar(s *scene) *shop.Instance {
	far := on(s.site.far(), s.living)
	s.touched[far.Address] = true
	return far
}

func isolateFar(ctx context.Context, s *scene) error {
	s.say("the host of %s drops all packets for %v", concernFar(s).ID, s.lasts)
	s.site.network.BreakHost(s.site.far(), hosts.Fault{Drop: true})
	return pause(ctx, s.lasts)
}

func silenceFar(ctx context.Context, s *scene) error {
	far := concernFar(s)
	s.say("what %s sends to the client is dropped for %v", far.ID, s.lasts)
	s.site.network.Break(s.site.far(), s.site.client(), hosts.Fault{Drop: true})
	if err := pause(ctx, s.lasts); err != nil {
		return err
	}
	if passing, err := s.agent.passing(ctx, service); err != nil || !passing[far.Address] {
		return fmt.Errorf("%s was to pass its checks meanwhile: %v, %w", far.ID, passing, err)
	}
	return nil
}

func healNetwork(_ context.Context, s *scene) error {
	s.ended = time.Now()
	s.site.heal()
	return nil
}

func farCalled(_ context.Context, s *scene) bool {
	return s.customer.tally.answers(concernFar(s).Address, s.ended)
}

func isolateConsul(ctx context.Context, s *scene) error {
	s.say("the host of consul drops all packets for %v", s.lasts)
	s.touchAll() // Consul finds them again one by one, as its checks pass
	s.site.network.BreakHost(s.site.consul(), hosts.Fault{Drop: true})
	return pause(ctx, s.lasts)
}

func healAndStart(ctx context.Context, s *scene) error {
	s.site.heal()
	return startNewest(ctx, s)
}

func newestFollowed(ctx context.Context, s *scene) bool {
	return newestCalled(ctx, s) && s.registered(ctx)
}

func slowNetwork(ctx context.Context, s *scene) error {
	s.say("packets take %v, and %.0f %% are lost, for %v", delay, 100*loss, s.lasts)
	s.site.network.BreakAll(hosts.Fault{Loss: loss, Delay: delay})
	return pause(ctx, s.lasts)
}
