package balancer

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
)

// petiole stands between gRPC and the pick_first of each endpoint (gRFC A61's
// word). It embeds the ClientConn to hear of the children's states.
type petiole[Config any] struct {
	balancer.ClientConn
	children balancer.Balancer
	policy   Policy[Config]
	target   resolver.Target

	mu      sync.Mutex // gRPC updates from one goroutine, children and timers from others
	closed  bool
	config  parsed[Config]
	zone    zone
	table   *Table
	members map[string]*member // by address: the endpoints that the resolver has listed
	latest  balancer.State     // of the children
	err     error              // why there is no endpoint
	timer   *time.Timer        // when the picker must be made anew though no child has changed
}

// member is an endpoint of the channel.
type member struct {
	*Endpoint
	listed   resolver.Endpoint
	ejection Ejection
	broken   bool                    // its connection could not be made since it was ready last
	done     func(balancer.DoneInfo) // made once, so that a pick allocates nothing
}

func (b builder[Config]) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	p := &petiole[Config]{ClientConn: cc, policy: b.policy, target: opts.Target, table: NewTable()}
	p.timer = time.AfterFunc(time.Hour, p.rebuild)
	p.timer.Stop()
	p.children = endpointsharding.NewBalancer(p, opts, balancer.Get(pickfirst.Name).Build, endpointsharding.Options{})
	return p
}

func (p *petiole[Config]) UpdateClientConnState(state balancer.ClientConnState) error {
	config, ok := state.BalancerConfig.(parsed[Config])
	if !ok {
		return fmt.Errorf("balancer: unexpected config of type %T", state.BalancerConfig)
	}
	p.mu.Lock()
	p.config = config
	p.zone = zoneOf(state.ResolverState.Attributes)
	p.list(state.ResolverState)
	p.err = nil
	if len(state.ResolverState.Endpoints) == 0 {
		p.err = reasonOf(state.ResolverState.Attributes, p.target)
	}
	p.mu.Unlock()
	// The config is ours: pick_first would not survive it.
	return p.children.UpdateClientConnState(balancer.ClientConnState{
		ResolverState: pickfirst.EnableHealthListener(state.ResolverState),
	})
}

// list borrows from the table what the resolver tells of. The caller holds p.mu.
func (p *petiole[Config]) list(state resolver.State) {
	before := p.members
	if t := tableOf(state.Attributes); t != nil && t != p.table {
		p.table.leave(before, p)
		p.table, before = t, nil
	}
	p.members = p.table.enter(before, state.Endpoints, p)
	for address, m := range p.members {
		if old := before[address]; old != nil && old.Endpoint == m.Endpoint {
			m.broken = old.broken
		}
		m.ejection = p.config.settings.Ejection
		m.done = func(info balancer.DoneInfo) { m.Endpoint.end(outcomeOf(info), &m.ejection) }
	}
}

// wake makes the picker anew soon. It may be called with any lock held.
func (p *petiole[Config]) wake() { p.timer.Reset(0) }

func (p *petiole[Config]) ResolverError(err error) {
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
	p.children.ResolverError(err)
}

func (p *petiole[Config]) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

func (p *petiole[Config]) ExitIdle() { p.children.ExitIdle() }

func (p *petiole[Config]) Close() {
	p.children.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.table.leave(p.members, p)
	p.timer.Stop()
}

// UpdateState hears of the children, one call at a time, and replaces their
// picker by the policy's as soon as one of them is ready.
func (p *petiole[Config]) UpdateState(state balancer.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latest = state
	p.update()
}

// rebuild runs when the timer fires: an ejection has begun or ended, a slow start
// has gone on.
func (p *petiole[Config]) rebuild() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed && p.latest.Picker != nil {
		p.update()
	}
}

// update tells gRPC of the picker over what is ready now. The caller holds p.mu.
func (p *petiole[Config]) update() {
	state := p.latest
	children := endpointsharding.ChildStatesFromPicker(state.Picker)
	now := p.table.view(p.ready(children), p.members, &p.config.settings, p.zone)
	if now.again > 0 {
		p.timer.Reset(now.again)
	}
	switch {
	case len(now.Ready) > 0:
		state.Picker = &picker{view: now, chooser: p.policy.New(p.config.config, now), measures: p.policy.Latency}
		state.ConnectivityState = connectivity.Ready
	case len(children) == 0 && p.err != nil:
		state.Picker = absent{p.err}
	}
	p.ClientConn.UpdateState(state)
}

// ready are the members with a connection.
func (p *petiole[Config]) ready(children []endpointsharding.ChildState) []Ready {
	var ready []Ready
	for _, child := range children {
		m := p.members[addressOf(child.Endpoint)]
		if m == nil {
			continue
		}
		switch child.State.ConnectivityState {
		case connectivity.TransientFailure:
			m.broken = true
		case connectivity.Ready:
			ready = append(ready, Ready{Endpoint: m.Endpoint, Weight: weightOf(m.listed), member: m, child: child.State.Picker})
		}
	}
	return ready
}

// absent is the picker of a channel without endpoints.
type absent struct{ reason error }

// Pick fails with the reason as text, whatever it is: gRPC would pass a status on
// and makes Unavailable of everything else.
func (a absent) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{}, errors.New(a.reason.Error())
}
