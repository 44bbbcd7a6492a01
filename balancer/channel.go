package balancer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/meshlite-go/meshlite/internal/rendezvous"
)

const (
	grpcPrefix = "grpc:" // of the names of other policies in a target
	// experimentalSuffix ends the names of gRPC's newer policies: "ring_hash_experimental".
	experimentalSuffix = "_experimental"
)

// PolicyName turns a policy as users write it into its name in a service config: "round_robin"
// into "meshlite_round_robin", "grpc:ring_hash" into "ring_hash_experimental". The error for a
// policy that is not registered lists those that are.
func PolicyName(policy string) (string, error) {
	if name, foreign := strings.CutPrefix(policy, grpcPrefix); foreign {
		if balancer.Get(name) == nil && balancer.Get(name+experimentalSuffix) != nil {
			name += experimentalSuffix
		}
		if balancer.Get(name) == nil {
			return "", fmt.Errorf("policy %q: gRPC has no policy %q: import the package that registers it", policy, name)
		}
		return name, nil
	}
	name, err := ownPolicyName(policy)
	if err != nil {
		return "", fmt.Errorf("%w, or grpc:NAME for one that is registered with gRPC", err)
	}
	return name, nil
}

func registerWithGRPC(name string, parse func(json.RawMessage) (configured, error)) {
	balancer.Register(builder{name, parse})
}

type builder struct {
	name  string
	parse func(json.RawMessage) (configured, error)
}

// parsedConfig is a policy's config on its way through gRPC.
type parsedConfig struct {
	serviceconfig.LoadBalancingConfig
	configured
}

func (b builder) Name() string { return b.name }

func (b builder) ParseConfig(text json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	policy, err := b.parse(text)
	if err != nil {
		return nil, err
	}
	return parsedConfig{configured: policy}, nil
}

func (b builder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	eb := &endpointBalancer{ClientConn: cc, name: b.name, target: opts.Target, table: newTableFor(opts.Target)}
	eb.rebuilds.init(eb.rebuild)
	eb.policy.settings = DefaultSettings()
	eb.list(nil)
	eb.children = endpointsharding.NewBalancer(eb, opts, balancer.Get(pickfirst.Name).Build, endpointsharding.Options{})
	return eb
}

// newTableFor makes the table of a channel whose resolver has none, such as dns:///host:port.
func newTableFor(target resolver.Target) *Table {
	return NewTable().WithLogger(slog.Default().With("target", target.Endpoint()))
}

// endpointBalancer connects gRPC's channel with the pick_first of each endpoint. It embeds the
// ClientConn to intercept the states of its children.
type endpointBalancer struct {
	balancer.ClientConn
	name     string // of the policy
	children balancer.Balancer
	target   resolver.Target
	rebuilds

	mu      sync.Mutex // gRPC updates from one goroutine, children and timers from others
	closed  bool
	policy  configured
	zone    zone
	table   *Table
	members map[string]connectable // by address: the endpoints that the resolver listed
	latest  balancer.State         // of the children
	err     error                  // why there are no endpoints
	current *attemptPicker         // nil before the first
	window  *Window                // that shows it, or nil
}

// connectable is a member with what ends its attempts.
type connectable struct {
	*member
	done func(balancer.DoneInfo)
}

func (b *endpointBalancer) UpdateClientConnState(state balancer.ClientConnState) error {
	config, ok := state.BalancerConfig.(parsedConfig)
	if !ok {
		return fmt.Errorf("balancer: unexpected config of type %T", state.BalancerConfig)
	}
	b.mu.Lock()
	b.policy = config.configured
	b.zone = attached[zone](state.ResolverState.Attributes)
	if t := attached[*Table](state.ResolverState.Attributes); t != nil && t != b.table {
		b.table.remove(b)
		b.table = t
	}
	b.list(state.ResolverState.Endpoints)
	b.show(attached[*Window](state.ResolverState.Attributes))
	b.err = nil
	if len(state.ResolverState.Endpoints) == 0 {
		b.err = reasonOf(state.ResolverState.Attributes, b.target)
	}
	b.mu.Unlock()
	// Without the BalancerConfig: it is not one of pick_first.
	return b.children.UpdateClientConnState(balancer.ClientConnState{
		ResolverState: pickfirst.EnableHealthListener(state.ResolverState),
	})
}

// list replaces the members. The caller holds b.mu.
func (b *endpointBalancer) list(endpoints []resolver.Endpoint) {
	all := make([]listed, len(endpoints))
	for i := range endpoints {
		all[i] = listedEndpoint(endpoints[i])
	}
	b.members = make(map[string]connectable, len(endpoints))
	for address, m := range b.table.update(b, all, &b.policy.settings.Ejection) {
		e := m.Endpoint
		b.members[address] = connectable{m, func(info balancer.DoneInfo) {
			if isPlainSuccess(&info) && !e.is(suspect) {
				e.ended.Add(1)
				return
			}
			e.end(resultOf(&info).Outcome, &m.ejectionSettings)
		}}
	}
}

func (b *endpointBalancer) ResolverError(err error) {
	b.mu.Lock()
	b.err = err
	b.mu.Unlock()
	b.children.ResolverError(err)
}

func (b *endpointBalancer) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

func (b *endpointBalancer) ExitIdle() { b.children.ExitIdle() }

func (b *endpointBalancer) Close() {
	b.children.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.hide()
	b.table.remove(b)
	b.rebuilds.stop()
}

// UpdateState receives the state of the children, one call at a time.
func (b *endpointBalancer) UpdateState(state balancer.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.latest = state; !b.closed {
		b.update()
	}
}

// rebuild runs when a timer fires: an ejection began or ended, a slow start has progressed.
func (b *endpointBalancer) rebuild() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed && b.latest.Picker != nil {
		b.update()
	}
}

// update gives gRPC a picker over the endpoints that are ready now. The caller holds b.mu.
func (b *endpointBalancer) update() {
	start := time.Now()
	state := b.latest
	states := endpointsharding.ChildStatesFromPicker(state.Picker)
	children := b.listedChildren(states)
	view := newView(b.table, b, children, &b.policy.settings, b.zone)
	defer func() { b.rebuilds.done(start, view.validFor) }()
	switch {
	case len(view.Candidates) > 0:
		b.current = &attemptPicker{
			rotation: newRotation(view, b.policy),
			table:    b.table,
			hashKey:  b.policy.hashKey,
		}
		state.Picker = b.current
		state.ConnectivityState = connectivity.Ready
	case state.ConnectivityState == connectivity.Ready:
		return // the resolver has listed others that the children do not have yet
	default:
		b.current = nil
		if len(states) == 0 && b.err != nil {
			state.Picker = failingPicker{b.err}
		}
	}
	b.ClientConn.UpdateState(state)
}

// listedChildren are the children that the resolver still lists.
func (b *endpointBalancer) listedChildren(states []endpointsharding.ChildState) []child {
	children := make([]child, 0, len(states))
	for _, c := range states {
		if m, ok := b.members[addressOf(c.Endpoint)]; ok {
			children = append(children, child{m.member, reachabilityOf(c.State.ConnectivityState), connection{c.State.Picker, m.done}})
		}
	}
	return children
}

func reachabilityOf(s connectivity.State) reachability {
	switch s {
	case connectivity.Ready:
		return connected
	case connectivity.TransientFailure:
		return unreachable
	default:
		return unconnected
	}
}

// failingPicker is the picker of a channel without endpoints.
type failingPicker struct{ reason error }

// Pick fails with the text of the reason: gRPC passes a status on, and makes everything else
// UNAVAILABLE.
func (p failingPicker) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{}, errors.New(p.reason.Error())
}

// show has w show b, and the window before no more. The caller holds b.mu.
func (b *endpointBalancer) show(w *Window) {
	if w == b.window {
		return
	}
	b.hide()
	if b.window = w; w != nil {
		w.current.Store(b)
	}
}

func (b *endpointBalancer) hide() {
	if b.window != nil {
		b.window.current.CompareAndSwap(b, nil)
	}
}

// Outlook picks nothing: it changes no state that calls see. Policies that are above several of
// this kind assert for it.
func (b *endpointBalancer) Outlook(ctx context.Context) Outlook {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := Outlook{Policy: b.name, HashKey: b.policy.hashKey}
	odds, due := map[*Endpoint]float64{}, map[*Endpoint]bool{}
	now := b.table.now()
	if b.current != nil {
		values := metadata.ValueFromOutgoingContext(ctx, b.policy.hashKey)
		o.Hashed = b.policy.hashKey != "" && len(values) > 0
		if o.Hashed {
			odds[b.current.preferred(rendezvous.Hash(values[0]), now)] = 1
		} else {
			o.Estimated = b.current.odds(now, odds)
			due = b.current.dueNow(now)
		}
	}
	t := b.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if u := t.channels[b]; u != nil {
		o.Panic = u.panicking
	}
	stats := make([]EndpointStats, 0, len(b.members))
	for _, m := range b.members {
		stats = append(stats, m.Endpoint.stats(m.summary, now))
	}
	setShares(stats)
	for _, s := range stats {
		e := b.members[s.Address].Endpoint
		o.Endpoints = append(o.Endpoints, EndpointOutlook{s, odds[e], due[e]})
	}
	return o
}
