package routes

import (
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// destination identifies the endpoints of a target in all chains of a service. The zero value
// is the service itself, with a chain or without.
type destination struct {
	service, subset, datacenter, filter string
	onlyPassing                         bool
}

func destinationOf(chain *route.Chain, t *route.Target) destination {
	if chain == nil || t == nil {
		return destination{}
	}
	d := destination{t.Service, t.Subset, t.Datacenter, t.Filter, t.OnlyPassing}
	if d == (destination{service: chain.Service, datacenter: chain.Datacenter}) {
		return destination{}
	}
	return d
}

// leaf is a target: its endpoints, and its policy while there are calls for it. policy.mu guards
// it, but for live and wanted.
type leaf struct {
	tracked
	policy *policy
	state  resolver.State // of the resolver
	listed map[string]bool
	child  child

	current *inner // nil without calls
	next    *inner // takes the place of current when it is ready: the policy has changed

	emptySince time.Time // no call can be sent since; zero is that one can

	live   atomic.Pointer[live] // nil without current
	wanted atomic.Bool          // calls go to it, or will
}

// live is a leaf as picks see it. It is immutable.
type live struct {
	picker balancer.Picker
	ready  bool // a call can be sent now
	dead   bool // no endpoint is usable
	usable int  // endpoints that can be picked now
	own    ownPicker
}

// ownPicker is what pickers of this module have beside gRPC's.
type ownPicker interface {
	PickRecorded(balancer.PickInfo, *attempt.Record) (balancer.PickResult, error)
	Endpoints() (usable, ejected int)
	HasUntried(*attempt.Record) bool
}

// hasUntried reports whether an endpoint has no attempt of the call of record. Policies that are
// not of this module do not record where an attempt went, and may pick an endpoint twice: they are
// tried as often as they have endpoints.
func (l *live) hasUntried(record *attempt.Record, target string) bool {
	if l.own == nil {
		return l.usable > record.SentTo(target)
	}
	return l.own.HasUntried(record)
}

// list sets what the resolver gives for the target.
func (l *leaf) list(t TargetState, c child) (changed bool) {
	changed = l.current == nil || !l.child.same(c) || !sameState(l.state, t.State)
	l.child, l.state, l.known = c, t.State, t.Known
	l.name = "the service"
	if t.Target != nil {
		l.name = t.Target.String()
	}
	l.listed = make(map[string]bool, len(t.State.Endpoints))
	for _, endpoint := range t.State.Endpoints {
		for _, a := range endpoint.Addresses {
			l.listed[a.Addr] = true
		}
	}
	for _, in := range []*inner{l.current, l.next} {
		if in != nil {
			in.keep(l.listed)
		}
	}
	return changed
}

// sameState reports whether a policy would see no difference.
func sameState(a, b resolver.State) bool {
	if len(a.Endpoints) != len(b.Endpoints) || !a.Attributes.Equal(b.Attributes) {
		return false
	}
	for i := range a.Endpoints {
		x, y := a.Endpoints[i], b.Endpoints[i]
		if len(x.Addresses) != len(y.Addresses) || !x.Attributes.Equal(y.Attributes) {
			return false
		}
		for j := range x.Addresses {
			if !x.Addresses[j].Equal(y.Addresses[j]) {
				return false
			}
		}
	}
	return true
}

// patience is how long a target without a connection is waited for before its failover and the
// other arms get its calls. A server that closes connections by age costs no failover.
const patience = time.Second

// examine takes the leaf's health at now. It returns when to do so again though nothing
// changes; 0 is never.
func (l *leaf) examine(now time.Time, s *settings) (again time.Duration) {
	h := health{usable: len(l.state.Endpoints), known: max(l.known, len(l.state.Endpoints)), built: l.current != nil}
	if in := l.current; in != nil {
		h.usable -= in.failing
		if own, ok := in.state.Picker.(ownPicker); ok {
			_, ejected := own.Endpoints()
			h.usable -= ejected
		}
		h.usable = max(h.usable, 0)
		h.ready = in.state.ConnectivityState == connectivity.Ready || in.state.ConnectivityState == connectivity.Idle
		switch {
		case h.ready:
			l.emptySince = time.Time{}
		case l.emptySince.IsZero():
			l.emptySince, again = now, patience
		default:
			again = max(0, patience-now.Sub(l.emptySince))
		}
		if !h.ready && (again == 0 || in.state.ConnectivityState == connectivity.TransientFailure) {
			h.usable, again = 0, 0
		}
	}
	return soonest(again, l.track(h, now, s))
}

// publish has picks see the leaf as it is.
func (l *leaf) publish() {
	if l.current == nil {
		l.live.Store(nil)
		return
	}
	v := &live{picker: l.current.state.Picker, ready: l.health.ready, dead: l.health.usable == 0, usable: l.current.ready}
	if own, ok := v.picker.(ownPicker); ok {
		v.own = own
		v.usable, _ = own.Endpoints()
	}
	l.live.Store(v)
}

// soonest is the shorter of two durations of which 0 is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// inner is a policy that was built for a leaf, and its side of gRPC. It embeds the channel's
// ClientConn to intercept states. policy.mu guards it.
type inner struct {
	balancer.ClientConn
	leaf     *leaf
	child    child
	balancer balancer.Balancer
	state    balancer.State

	connections    map[string]*connection // by address
	ready, failing int                    // of them
}

// connection is the newest one to an address. Between attempts, one that failed stays failing.
type connection struct{ ready, failing bool }

// UpdateState receives the state of the policy.
func (in *inner) UpdateState(state balancer.State) { in.leaf.policy.childState(in, state) }

// NewSubConn has the states of the connection counted.
func (in *inner) NewSubConn(addresses []resolver.Address, opts balancer.NewSubConnOptions) (balancer.SubConn, error) {
	if len(addresses) == 1 && opts.StateListener != nil {
		opts.StateListener = in.listen(addresses[0].Addr, opts.StateListener)
	}
	//lint:ignore SA1019 gRPC marks it for its addresses only, of which there is one
	return in.ClientConn.NewSubConn(addresses, opts)
}

// listen counts the states of a new connection before listener receives them.
func (in *inner) listen(address string, listener func(balancer.SubConnState)) func(balancer.SubConnState) {
	c, mu := &connection{}, &in.leaf.policy.mu
	mu.Lock()
	in.replace(address, c)
	mu.Unlock()
	return func(s balancer.SubConnState) {
		mu.Lock()
		in.observe(address, c, s.ConnectivityState)
		mu.Unlock()
		listener(s)
	}
}

// replace sets the connection of address; nil is none.
func (in *inner) replace(address string, c *connection) {
	if old := in.connections[address]; old != nil {
		in.count(old, -1)
		delete(in.connections, address)
	}
	if c != nil && in.leaf.listed[address] {
		in.connections[address] = c
	}
}

func (in *inner) count(c *connection, n int) {
	if c.ready {
		in.ready += n
	}
	if c.failing {
		in.failing += n
	}
}

// observe takes a state of a connection, unless it was replaced.
func (in *inner) observe(address string, c *connection, state connectivity.State) {
	if in.connections[address] != c {
		return
	}
	in.count(c, -1)
	c.ready = state == connectivity.Ready
	switch state {
	case connectivity.TransientFailure:
		c.failing = true
	case connectivity.Ready:
		c.failing = false
	}
	in.count(c, 1)
	if state == connectivity.Shutdown {
		in.replace(address, nil)
	}
}

// keep drops the connections to addresses that are not listed.
func (in *inner) keep(listed map[string]bool) {
	for address := range in.connections {
		if !listed[address] {
			in.replace(address, nil)
		}
	}
}
