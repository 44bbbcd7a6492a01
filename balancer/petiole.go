package balancer

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
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

	// The picker is made anew though no child has changed: soon, because something has
	// happened, and later, because time has passed.
	soon, later *time.Timer
	updated     atomic.Int64 // when it was made last, since born
	took        atomic.Int64 // and how long that took
	born        time.Time

	mu      sync.Mutex // gRPC updates from one goroutine, children and timers from others
	closed  bool
	config  parsed[Config]
	zone    zone
	table   *Table
	members map[string]*member // by address: the endpoints that the resolver has listed
	latest  balancer.State     // of the children
	err     error              // why there is no endpoint
}

// member is an endpoint of a channel. All but state and shown, which Table.mu guards, is
// never changed.
type member struct {
	*Endpoint
	listed   resolver.Endpoint
	ejection Ejection
	done     func(balancer.DoneInfo) // made once, so that a pick allocates nothing

	state connectivity.State
	shown shown
}

func (b builder[Config]) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	p := &petiole[Config]{ClientConn: cc, policy: b.policy, target: opts.Target, table: ownTable(opts.Target), born: time.Now()}
	p.soon, p.later = stopped(p.rebuild), stopped(p.rebuild)
	p.config.settings = DefaultSettings()
	p.members = p.table.enter(p, nil, &p.config.settings.Ejection) // nobody, until the resolver tells
	p.children = endpointsharding.NewBalancer(p, opts, balancer.Get(pickfirst.Name).Build, endpointsharding.Options{})
	return p
}

// ownTable is that of a channel whose resolver has none for it, such as dns:///host:port.
func ownTable(target resolver.Target) *Table {
	return NewTable().WithLogger(slog.Default().With("target", target.Endpoint()))
}

// stopped is a timer that does not run yet.
func stopped(do func()) *time.Timer {
	timer := time.AfterFunc(time.Hour, do)
	timer.Stop()
	return timer
}

func (p *petiole[Config]) UpdateClientConnState(state balancer.ClientConnState) error {
	config, ok := state.BalancerConfig.(parsed[Config])
	if !ok {
		return fmt.Errorf("balancer: unexpected config of type %T", state.BalancerConfig)
	}
	p.mu.Lock()
	p.config = config
	p.zone = zoneOf(state.ResolverState.Attributes)
	if t := tableOf(state.ResolverState.Attributes); t != nil && t != p.table {
		p.table.leave(p)
		p.table = t
	}
	p.members = p.table.enter(p, state.ResolverState.Endpoints, &config.settings.Ejection)
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

// rest is how many times as long as it has taken to make a picker no other is made:
// among very many endpoints, of which one after the other fails, it takes long.
const rest = 10

// wake makes the picker anew soon. It may be called with any lock held.
func (p *petiole[Config]) wake() {
	p.soon.Reset(max(0, time.Duration(p.updated.Load()+rest*p.took.Load())-time.Since(p.born)))
}

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
	p.table.leave(p)
	p.soon.Stop()
	p.later.Stop()
}

// UpdateState hears of the children, one call at a time, and replaces their
// picker by the policy's as soon as one of them is ready.
func (p *petiole[Config]) UpdateState(state balancer.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.latest = state; !p.closed {
		p.update()
	}
}

// rebuild runs when a timer fires: an ejection has begun or ended, a slow start
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
	begin := time.Since(p.born)
	state := p.latest
	told := endpointsharding.ChildStatesFromPicker(state.Picker)
	now := p.table.view(p, p.family(told), &p.config.settings, p.zone)
	if now.again > 0 {
		p.later.Reset(now.again)
	}
	switch {
	case len(now.Ready) > 0:
		state.Picker = &picker{view: now, chooser: p.policy.New(p.config.config, now), measures: p.policy.Latency}
		state.ConnectivityState = connectivity.Ready
	case state.ConnectivityState == connectivity.Ready:
		return // the resolver has just listed others, and the children have not heard of it
	case len(told) == 0 && p.err != nil:
		state.Picker = absent{p.err}
	}
	p.took.Store(int64(time.Since(p.born) - begin))
	p.updated.Store(int64(time.Since(p.born)))
	p.ClientConn.UpdateState(state)
}

// family are the children that the resolver still lists.
func (p *petiole[Config]) family(told []endpointsharding.ChildState) []child {
	family := make([]child, 0, len(told))
	for _, c := range told {
		if m := p.members[addressOf(c.Endpoint)]; m != nil {
			family = append(family, child{m, c.State.ConnectivityState, c.State.Picker})
		}
	}
	return family
}

// absent is the picker of a channel without endpoints.
type absent struct{ reason error }

// Pick fails with the reason as text, whatever it is: gRPC would pass a status on
// and makes Unavailable of everything else.
func (a absent) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{}, errors.New(a.reason.Error())
}
