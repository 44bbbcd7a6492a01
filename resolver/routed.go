package resolver

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// routedResolver is the resolver of a channel that goes by a chain. Each target of the chain is
// discovered as the target of a channel is, with the same guard, grace, subset and snapshots; one
// goroutine, run, publishes them together. Without a chain it publishes what plain discovery does.
type routedResolver struct {
	builder   *Builder
	target    Target
	directory catalog.Watcher
	cc        resolver.ClientConn
	opts      resolver.BuildOptions

	plainConfig  *serviceconfig.ParseResult // nil is that of the channel
	routedConfig *serviceconfig.ParseResult

	chain      *chainWatch
	closeChain func()
	wake       chan struct{}
	cancel     context.CancelFunc
	done       chan struct{}

	planner[*part]
	routed   bool     // a chain was published
	narrowed narrowed // of a channel to one subset
}

// narrowed is the latest chain of a service, and what is left of it for one subset.
type narrowed struct {
	of  *route.Chain
	to  *route.Chain // the latest that has the subset
	err error        // why that is not left of the latest
}

// part is the discovery of one target: it receives what a resolver publishes.
type part struct {
	resolver.ClientConn // of the channel, for the service config
	wake                chan<- struct{}
	resolver            *consulResolver

	mu      sync.Mutex
	state   resolver.State
	err     error // why there is no state, or no newer one
	ready   bool  // there is a state or an error
	changed bool  // since the last time it was published
}

// UpdateState is called by the part's resolver.
func (p *part) UpdateState(state resolver.State) error {
	p.set(func() { p.state, p.err = state, nil })
	return nil
}

// ReportError is called by the part's resolver. The last state stays valid.
func (p *part) ReportError(err error) { p.set(func() { p.err = err }) }

func (p *part) set(change func()) {
	p.mu.Lock()
	change()
	p.ready, p.changed = true, true
	p.mu.Unlock()
	signal(p.wake)
}

func (p *part) isReady() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready
}

// republish has what is known published again.
func (p *part) republish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed = true
}

func (p *part) close() { p.resolver.Close() }

// take returns what is to be published, and whether it has changed since it was last taken.
func (p *part) take() (state resolver.State, err error, changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed, p.changed = p.changed, false
	return p.state, p.err, changed
}

// route starts the resolver of a channel with a router.
func (b *Builder) route(target Target, directory catalog.Watcher, cc resolver.ClientConn, opts resolver.BuildOptions) (resolver.Resolver, error) {
	watcher, ok := directory.(route.Watcher)
	if (!ok || opts.DisableServiceConfig) && b.chainSubset != "" {
		return nil, fmt.Errorf("resolver: WithChainSubset %q: %s has no discovery chains, or grpc.WithDisableServiceConfig turns them off", b.chainSubset, directory.Name())
	}
	if !ok || opts.DisableServiceConfig { // in which the policy of routes is named
		b.router.Update(nil, nil)
		return b.discover(target, directory, windowed{cc, b.router.Window()}, opts, bundledServerName(opts))
	}
	r := &routedResolver{
		builder: b, target: target, directory: directory, cc: cc, opts: opts,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	r.planner = planner[*part]{patience: b.startTimeout, parts: map[string]*part{}, open: r.openPart}
	text := b.serviceConfigOf(target.Policy)
	routed, err := routedServiceConfig(text)
	if err != nil {
		return nil, err
	}
	if target.Policy != "" {
		if r.plainConfig, err = parsed(text, cc, opts); err != nil {
			return nil, fmt.Errorf("target key \"policy\": %w", err)
		}
	}
	if r.routedConfig, err = parsed(routed, cc, opts); err != nil {
		return nil, fmt.Errorf("resolver: WithRoutes: %w", err)
	}
	r.target.Policy = "" // it is in both configs
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.chain, r.closeChain = b.chains.follow(watcher, r.chainKey(), b.log, r.wake)
	go r.run(ctx)
	return r, nil
}

// windowed is a channel without chains, whose policy a window shows.
type windowed struct {
	resolver.ClientConn
	window *balancer.Window
}

// UpdateState adds the window.
func (w windowed) UpdateState(state resolver.State) error {
	return w.ClientConn.UpdateState(balancer.WithWindow(state, w.window))
}

// routedServiceConfig is a service config whose policy is that of a target, under the policy of
// routes.
func routedServiceConfig(text string) (string, error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(text), &fields); err != nil {
		return "", fmt.Errorf("resolver: WithServiceConfig: %w: write a JSON object as in gRPC's service_config.md", err)
	}
	child := fields["loadBalancingConfig"]
	if old := fields["loadBalancingPolicy"]; child == nil && old != nil {
		child = json.RawMessage(fmt.Sprintf(`[{%s: {}}]`, old))
	}
	delete(fields, "loadBalancingPolicy")
	config, err := json.Marshal([]any{map[string]any{routes.Name: map[string]any{"child": child}}})
	if err != nil {
		return "", fmt.Errorf("resolver: WithServiceConfig: %w", err)
	}
	fields["loadBalancingConfig"] = config
	all, err := json.Marshal(fields)
	return string(all), err
}

func (r *routedResolver) chainKey() chainKey {
	key := chainKey{directory: r.directory.Name(), service: r.target.Service}
	key.snapshots, _ = r.builder.snapshots.(ChainSnapshots)
	if len(r.target.Datacenters) > 0 {
		key.datacenter = r.target.Datacenters[0]
	}
	return key
}

// ResolveNow does nothing, as that of plain discovery.
func (r *routedResolver) ResolveNow(resolver.ResolveNowOptions) {}

// Close ends the watches that no other channel shares, and waits.
func (r *routedResolver) Close() {
	r.cancel()
	<-r.done
	r.closeChain()
	r.closeParts()
}

func (r *routedResolver) run(ctx context.Context) {
	defer close(r.done)
	r.runUpdates(ctx, r.wake, r.update)
}

// update follows the chain and publishes what has changed; starting is what is left of the start
// timeout. It returns when to update again without being woken; 0 is never.
func (r *routedResolver) update(starting time.Duration) time.Duration {
	v := r.chain.view()
	if r.builder.chainSubset != "" {
		v = r.narrow(v, starting)
	}
	if v.answered {
		r.builder.router.Update(v.chain, v.refused)
	}
	switch last := r.builder.router.Chain(); {
	case v.answered && (v.chain != nil || v.refused == nil):
		r.begin(v.chain)
	case v.answered && r.current != nil: // what is in use stays, and its instances are followed
	case last != nil: // of this channel, before it was idle
		r.begin(last)
	case v.answered:
		r.cc.ReportError(v.refused)
		return 0
	case r.builder.chainSubset != "": // there is no plain discovery of a subset
		return starting
	case v.earlier != nil:
		r.builder.router.Update(v.earlier, nil)
		r.begin(v.earlier)
	case r.current == nil:
		if again := r.awaitChain(v, starting); again > 0 {
			return again
		}
		r.builder.router.Update(nil, nil)
	}
	again := r.advance()
	r.publish()
	return again
}

// narrow is v for a channel to one subset: its chain, or why there is none, beside the last one. It
// waits for the first answer as long as the start timeout lasts.
func (r *routedResolver) narrow(v chainView, starting time.Duration) chainView {
	subset, service := r.builder.chainSubset, r.target.Service
	switch {
	case !v.answered && (starting > 0 || r.builder.router.Chain() != nil): // or it has one, of before it was idle
		return v
	case !v.answered:
		v.refused = cmp.Or(v.err, fmt.Errorf("subset %q of %q: the discovery chain has not been read", subset, service))
	case v.chain == nil && v.refused == nil:
		v.refused = fmt.Errorf("%q has no discovery chain, and so no subset %q: write a service-resolver", service, subset)
	case v.chain == nil:
	case r.narrowed.of == v.chain:
		v.refused = cmp.Or(v.refused, r.narrowed.err)
	default:
		r.narrowed.of, r.narrowed.err = v.chain, nil
		if to := subsetChain(v.chain, subset); to != nil {
			r.narrowed.to = to
		} else {
			r.narrowed.err = fmt.Errorf("the discovery chain of %q has no subset %q that calls could go to: give it an arm in the service-splitter, if only with weight 0", service, subset)
			v.refused = r.narrowed.err
		}
	}
	v.answered, v.chain = true, r.narrowed.to
	return v
}

// targetOf is how the instances of a chain's target are found: as those of the channel's target,
// in the target's datacenter and by its filter.
func (r *routedResolver) targetOf(chain *route.Chain, of *route.Target) Target {
	t := r.target
	if of.Service != t.Service {
		t.Service, t.Tags = of.Service, nil // tags are of the service that the channel names
	}
	if of.Datacenter != chain.Datacenter {
		t.Datacenters = []string{of.Datacenter}
	}
	t.Filter = bothFilters(t.Filter, of.Filter)
	return t
}

// bothFilters is the filter of what matches both, which may be empty.
func bothFilters(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return fmt.Sprintf("(%s) and (%s)", a, b)
}

// openPart returns what discovers a target, and its key.
func (r *routedResolver) openPart(chain *route.Chain, of *route.Target, failover bool) (string, func() *part) {
	target, builder := r.target, *r.builder
	if chain != nil {
		target = r.targetOf(chain, of)
		builder.settings = builder.forTarget(of, failover)
	}
	key := fmt.Sprint(tableKey("", target.queries(builder.warning)), builder.panic)
	return key, func() *part { return r.newPart(target, &builder) }
}

func (r *routedResolver) newPart(target Target, builder *Builder) *part {
	serverName := bundledServerName(r.opts)
	if serverName == "" && target.Service != r.target.Service && r.opts.Authority == url.PathEscape(r.target.Service) {
		serverName = url.PathEscape(target.Service) // unless a name is pinned, each proves its own
	}
	p := &part{ClientConn: r.cc, wake: r.wake}
	p.resolver, _ = builder.discover(target, r.directory, p, r.opts, serverName) // it has no policy, and so no error
	return p
}

// publish updates gRPC's state if something of the current plan has changed. Until there has been
// a chain it is the state of plain discovery; from then on the policy of routes stays, since
// another one would connect anew.
func (r *routedResolver) publish() {
	switch {
	case r.current == nil:
	case r.current.chain == nil && !r.routed:
		r.publishPlain()
	default:
		r.routed = true
		r.publishTargets()
	}
}

func (r *routedResolver) publishPlain() {
	state, err, changed := r.current.parts[""].take()
	switch {
	case !changed:
	case err != nil:
		r.cc.ReportError(err)
	default:
		state.ServiceConfig = r.plainConfig
		state = balancer.WithWindow(state, r.builder.router.Window())
		_ = r.cc.UpdateState(state)
	}
}

func (r *routedResolver) publishTargets() {
	var targets []routes.TargetState
	anyChanged := false
	for id, p := range r.current.parts {
		ready := p.isReady()
		found, err, changed := p.take()
		anyChanged = anyChanged || changed
		if !ready {
			err = fmt.Errorf("%s has not answered within %v: is it reachable?", r.directory.Name(), r.builder.startTimeout)
		}
		if err != nil && len(found.Endpoints) == 0 {
			found = balancer.WithReason(found, err)
		}
		target := routes.TargetState{ID: id, State: found, Known: p.resolver.known(len(found.Endpoints))}
		if r.current.chain != nil {
			target.Target = r.current.chain.Targets[id]
		} else {
			target.State = balancer.WithWindow(found, r.builder.router.Window())
		}
		targets = append(targets, target)
	}
	if anyChanged {
		state := resolver.State{ServiceConfig: r.routedConfig}
		_ = r.cc.UpdateState(routes.WithTargets(state, r.current.chain, targets, r.builder.router))
	}
}

// known is how many instances the directory lists for a target of which published are in use,
// unhealthy ones included: for a subset, in proportion.
func (r *consulResolver) known(published int) int {
	for _, s := range r.sources {
		if v := s.view(); len(v.list) > 0 {
			return v.known(published)
		}
	}
	return published
}

func (v *view) known(published int) int {
	return published + v.excluded*published/max(len(v.list), 1)
}
