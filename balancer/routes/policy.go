package routes

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/serviceconfig"
)

func init() { balancer.Register(builder{}) }

type builder struct{}

func (builder) Name() string { return Name }

func (builder) ParseConfig(text json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	return parseConfig(text)
}

func (builder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	p := &policy{cc: cc, opts: opts, leaves: map[destination]*leaf{}}
	p.soon, p.later = stoppedTimer(p.run), stoppedTimer(p.reexamine)
	return p
}

func stoppedTimer(do func()) *time.Timer {
	timer := time.AfterFunc(time.Hour, do)
	timer.Stop()
	return timer
}

// policy is that of a channel. It calls leaves with calls held, and never with mu held, which
// leaves take when they call it. Lock calls first.
type policy struct {
	cc          balancer.ClientConn
	opts        balancer.BuildOptions
	soon, later *time.Timer // run, reexamine

	calls sync.Mutex // held while leaves are called: gRPC and the timers take turns

	mu      sync.Mutex
	closed  bool
	changed bool // the plan, or the health of leaves, since the router has drawn with them
	paused  bool // states of leaves are not published: more follow
	router  *Router
	plan    *plan // nil is plain discovery
	leaves  map[destination]*leaf
	byID    map[string]*leaf // of the targets of plan; "" is plain discovery
	picker  *picker
	retired []*inner // to be closed
	err     error    // of the resolver, before its first state
	lines   []line   // to be logged
}

// UpdateClientConnState takes what a resolver says. It builds what is needed, has picks use it,
// and closes what is not needed any more, in this order.
func (p *policy) UpdateClientConnState(s balancer.ClientConnState) error {
	c, ok := s.BalancerConfig.(*config)
	if !ok {
		return fmt.Errorf("%s: unexpected config of type %T", Name, s.BalancerConfig)
	}
	a := attachedTo(s.ResolverState)
	if a == nil {
		a = &attached{}
	}
	targets := a.targets
	if a.chain != nil {
		if err := a.chain.Check(); err != nil {
			return err
		}
	} else {
		plain := TargetState{State: s.ResolverState}
		if len(targets) > 0 {
			plain = targets[0]
		}
		plain.ID = ""
		targets = []TargetState{plain}
	}
	policies, children := policiesOf(a.chain), make([]child, len(targets))
	for i, t := range targets {
		var err error
		if children[i], err = c.of(cmp.Or(t.Policy, policies[t.ID])); err != nil {
			return fmt.Errorf("%s: target %q: %w", Name, t.ID, err)
		}
	}
	p.calls.Lock()
	defer p.calls.Unlock()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.paused, p.err = true, nil
	changed := p.list(a, targets, children)
	p.mu.Unlock()
	err := p.arrange(changed)
	if a.chain != nil { // an empty target is a case of routes
		return nil
	}
	return err
}

// list replaces chain and targets. It returns the leaves that have changed. The caller holds
// p.mu.
func (p *policy) list(a *attached, targets []TargetState, children []child) (changed []*leaf) {
	if a.router != nil && a.router != p.router {
		p.router.detach(p)
		p.router = a.router
	}
	if p.router == nil {
		p.router = newRouter(defaults())
	}
	before := p.leaves
	p.leaves, p.byID = make(map[destination]*leaf, len(targets)), make(map[string]*leaf, len(targets))
	for i, t := range targets {
		key := destinationOf(a.chain, t.Target)
		l := p.leaves[key]
		if l == nil {
			if l = before[key]; l == nil {
				l = &leaf{policy: p}
			}
			p.leaves[key] = l
			if l.list(t, children[i]) {
				changed = append(changed, l)
			}
		}
		p.byID[t.ID] = l
	}
	for key, l := range before {
		if p.leaves[key] != l {
			p.retire(l)
		}
	}
	earlier := p.plan
	p.plan, p.changed = p.router.planFor(a.chain), true
	p.picker = newPicker(p, earlier)
	return changed
}

// retire has the policies of a leaf closed.
func (p *policy) retire(l *leaf) {
	for _, in := range []*inner{l.current, l.next} {
		if in != nil {
			p.retired = append(p.retired, in)
		}
	}
	l.current, l.next = nil, nil
}

// arrange builds the policies of leaves that are wanted, updates those that have changed,
// publishes the result, and closes what is not needed. The caller holds p.calls, and has set
// p.paused. The error is the first one of a leaf, as it is: gRPC compares it.
func (p *policy) arrange(changed []*leaf) (err error) {
	p.mu.Lock()
	p.examine()
	updates := p.builds(changed)
	p.mu.Unlock()
	for _, u := range updates {
		if u.in.balancer == nil {
			u.in.balancer = u.in.child.builder.Build(u.in, p.opts)
		}
		if wrong := u.in.balancer.UpdateClientConnState(u.state); err == nil {
			err = wrong
		}
	}
	p.mu.Lock()
	p.paused = false
	p.examine()
	for _, l := range p.leaves {
		if !l.wanted.Load() {
			p.retire(l)
		}
	}
	p.update()
	retired := p.retired
	p.retired = nil
	p.unlock()
	closeAll(retired)
	return err
}

func closeAll(retired []*inner) {
	for _, in := range retired {
		if in.balancer != nil {
			in.balancer.Close()
		}
	}
}

// build is a call of a policy.
type build struct {
	in    *inner
	state balancer.ClientConnState
}

// builds are the calls that give leaves what they need. The caller holds p.mu.
func (p *policy) builds(changed []*leaf) (all []build) {
	add := func(in *inner) {
		all = append(all, build{in, balancer.ClientConnState{ResolverState: in.leaf.state, BalancerConfig: in.child.config}})
	}
	for _, l := range p.leaves {
		switch {
		case !l.wanted.Load():
		case l.current == nil:
			l.current = p.newInner(l)
			add(l.current)
		case l.child.builder.Name() != l.current.child.builder.Name():
			if l.next == nil || l.next.child.builder.Name() != l.child.builder.Name() {
				if l.next != nil {
					p.retired = append(p.retired, l.next)
				}
				l.next = p.newInner(l)
			}
			l.next.child = l.child
			add(l.next)
			if slices.Contains(changed, l) { // with its own config
				add(l.current)
			}
		case slices.Contains(changed, l):
			if l.next != nil { // the policy is again what it was
				p.retired, l.next = append(p.retired, l.next), nil
			}
			l.current.child = l.child
			add(l.current)
		}
	}
	return all
}

func (p *policy) newInner(l *leaf) *inner {
	l.emptySince = time.Time{}
	return &inner{
		ClientConn: p.cc, leaf: l, child: l.child, connections: map[string]*connection{},
		state: balancer.State{ConnectivityState: connectivity.Connecting, Picker: base.NewErrPicker(balancer.ErrNoSubConnAvailable)},
	}
}

// childState receives the state of a leaf's policy.
func (p *policy) childState(in *inner, state balancer.State) {
	p.mu.Lock()
	defer p.unlock()
	in.state = state
	l := in.leaf
	if l.next == in && (state.ConnectivityState == connectivity.Ready || state.ConnectivityState == connectivity.Idle ||
		l.current.state.ConnectivityState != connectivity.Ready) {
		p.retired = append(p.retired, l.current)
		l.current, l.next = in, nil
		p.soon.Reset(0)
	}
	if l.current == in && !p.paused && !p.closed {
		p.update()
	}
}

// run builds and closes what an event has asked for.
func (p *policy) run() {
	p.calls.Lock()
	defer p.calls.Unlock()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.paused = true
	p.mu.Unlock()
	_ = p.arrange(nil) // the resolver's next state corrects it
}

// reexamine runs when time has passed.
func (p *policy) reexamine() {
	p.mu.Lock()
	defer p.unlock()
	if !p.paused && !p.closed {
		p.update()
	}
}

// examine takes the health of all leaves, and which are wanted. The caller holds p.mu.
func (p *policy) examine() {
	now, again := time.Now(), time.Duration(0)
	for _, l := range p.leaves {
		before := l.health
		again = soonest(again, l.examine(now, &p.router.settings))
		p.changed = p.changed || l.health != before
	}
	if again > 0 {
		p.later.Reset(again)
	}
	wanted := p.wanted()
	for _, l := range p.leaves {
		l.wanted.Store(wanted[l])
	}
}

// wanted are the leaves that calls go to, or must be able to go to now.
func (p *policy) wanted() map[*leaf]bool {
	wanted := map[*leaf]bool{}
	if p.plan == nil {
		wanted[p.byID[""]] = true
		return wanted
	}
	for _, r := range p.plan.routes {
		for _, a := range r.arms {
			if a.Weight > 0 {
				p.want(wanted, a.ways)
			}
		}
	}
	return wanted
}

// want adds the leaves of an arm, up to the one that takes what those before cannot take.
func (p *policy) want(wanted map[*leaf]bool, ways []*way) {
	left := 1.0
	for i, w := range ways {
		l := p.byID[w.Target]
		if l == nil {
			continue
		}
		wanted[l] = true
		if !l.health.ready && p.anyReady(ways[i+1:]) {
			continue // keep its failover until it is ready
		}
		if left *= 1 - min(l.health.present, l.health.steady); left <= 0 {
			return
		}
	}
}

func (p *policy) anyReady(ways []*way) bool {
	return slices.ContainsFunc(ways, func(w *way) bool { return p.health(w.Target).ready })
}

// update has calls go by what is alive now. The caller holds p.mu.
func (p *policy) update() {
	if p.router == nil { // an error of the resolver is all there is
		p.cc.UpdateState(balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: base.NewErrPicker(p.err)})
		return
	}
	p.examine()
	for _, l := range p.leaves {
		l.publish()
		if l.wanted.Load() != (l.current != nil) {
			p.soon.Reset(0)
		}
	}
	state := p.connectivity()
	p.router.attach(p, p.plan, p.health, p.changed, state == connectivity.Connecting)
	if p.changed {
		p.changed = false
		p.logChanges()
	}
	p.cc.UpdateState(balancer.State{ConnectivityState: state, Picker: p.picker})
}

// health is that of a target of the plan.
func (p *policy) health(id string) health {
	if l := p.byID[id]; l != nil {
		return l.health
	}
	return health{}
}

// connectivity is the best of the wanted leaves'.
func (p *policy) connectivity() connectivity.State {
	found := map[connectivity.State]bool{}
	for _, l := range p.leaves {
		if l.wanted.Load() {
			if l.current == nil {
				found[connectivity.Connecting] = true
			} else {
				found[l.current.state.ConnectivityState] = true
			}
		}
	}
	for _, state := range []connectivity.State{connectivity.Ready, connectivity.Connecting, connectivity.Idle} {
		if found[state] {
			return state
		}
	}
	return connectivity.TransientFailure
}

// ResolverError passes err on.
func (p *policy) ResolverError(err error) {
	p.each(func(b balancer.Balancer) { b.ResolverError(err) })
	p.mu.Lock()
	defer p.unlock()
	if p.err = err; p.router == nil && !p.closed {
		p.update()
	}
}

// ExitIdle has the leaves connect.
func (p *policy) ExitIdle() { p.each(balancer.Balancer.ExitIdle) }

// each calls the policies of leaves.
func (p *policy) each(do func(balancer.Balancer)) {
	p.calls.Lock()
	defer p.calls.Unlock()
	p.mu.Lock()
	var all []balancer.Balancer
	for _, l := range p.leaves {
		for _, in := range []*inner{l.current, l.next} {
			if in != nil && in.balancer != nil {
				all = append(all, in.balancer)
			}
		}
	}
	p.mu.Unlock()
	for _, b := range all {
		do(b)
	}
}

// UpdateSubConnState is not called: connections have listeners.
func (p *policy) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

// Close closes all leaves. The router keeps the chain, as nothing is known of its targets.
func (p *policy) Close() {
	p.calls.Lock()
	defer p.calls.Unlock()
	p.mu.Lock()
	p.closed = true
	p.soon.Stop()
	p.later.Stop()
	for _, l := range p.leaves {
		p.retire(l)
		l.publish()
	}
	retired := p.retired
	p.retired = nil
	p.router.detach(p)
	p.mu.Unlock()
	closeAll(retired)
}
