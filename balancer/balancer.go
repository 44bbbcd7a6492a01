// Package balancer is what all policies below it share: the table of endpoints, and the way
// from gRPC's connections to a picker.
//
// A policy is a name, a config and a [Picker]. A picker is immutable: it is rebuilt when the
// endpoints in rotation or their weights change.
//
//	func init() { balancer.Register(balancer.Policy[Config]{Name: Name, Parse: parse, New: newPicker}) }
//
// The rest is the same for all policies (see [Settings]): failing endpoints are ejected and
// probed, new ones start slowly, calls stay in their zone, a retry goes to an endpoint that its
// call has not tried. The state of endpoints is in a [Table], which outlives pickers,
// reconnects and idle channels.
//
// Each endpoint has a pick_first for its connection, as in gRPC's own policies (gRFC A61).
// Experimental API of grpc-go is used in this package only; policies see a [Candidate].
package balancer

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
)

// Picker is a policy over the candidates it was made of. It must be safe for concurrent use
// and should not allocate.
type Picker interface {
	// Pick returns one of the candidates.
	Pick() *Candidate
}

// Policy is what [Register] needs of a policy.
type Policy[Config any] struct {
	Name string
	// Parse checks the policy's fields of a service config, without the [Settings].
	Parse func(json.RawMessage) (Config, error)
	// New makes the policy's picker.
	New func(Config, View) Picker
	// Latency has every attempt timed, for policies that use [Endpoint.Latency]. Otherwise it
	// is one in sixteen.
	Latency bool
}

// registered are the imported policies of this module. Only Register, which runs in init
// functions, changes it.
var registered []string

// Register registers p with gRPC. Call it from an init function only.
func Register[Config any](p Policy[Config]) {
	balancer.Register(builder[Config]{p})
	registered = append(registered, p.Name)
}

const (
	ownPrefix  = "meshlite_" // of the names of policies of this module
	grpcPrefix = "grpc:"     // of the names of other policies in a target
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
	name := ownPrefix + strings.TrimPrefix(policy, ownPrefix)
	if !slices.Contains(registered, name) {
		var names []string
		for _, r := range registered {
			names = append(names, strings.TrimPrefix(r, ownPrefix))
		}
		slices.Sort(names)
		return "", fmt.Errorf("policy %q does not exist: write %s, or grpc:NAME for one that is registered with gRPC", policy, strings.Join(names, ", "))
	}
	return name, nil
}

type builder[Config any] struct{ policy Policy[Config] }

// parsedConfig is a config on its way through gRPC.
type parsedConfig[Config any] struct {
	serviceconfig.LoadBalancingConfig
	config   Config
	settings Settings
}

func (b builder[Config]) Name() string { return b.policy.Name }

func (b builder[Config]) ParseConfig(text json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	config, err := b.policy.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.policy.Name, err)
	}
	settings, err := parseSettings(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.policy.Name, err)
	}
	return parsedConfig[Config]{config: config, settings: settings}, nil
}

func (b builder[Config]) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	eb := &endpointBalancer[Config]{ClientConn: cc, policy: b.policy, target: opts.Target, table: newTableFor(opts.Target), createdAt: time.Now()}
	eb.soon, eb.later = stoppedTimer(eb.rebuild), stoppedTimer(eb.rebuild)
	eb.config.settings = DefaultSettings()
	eb.members = eb.table.update(eb, nil, &eb.config.settings.Ejection)
	eb.children = endpointsharding.NewBalancer(eb, opts, balancer.Get(pickfirst.Name).Build, endpointsharding.Options{})
	return eb
}

// newTableFor makes the table of a channel whose resolver has none, such as dns:///host:port.
func newTableFor(target resolver.Target) *Table {
	return NewTable().WithLogger(slog.Default().With("target", target.Endpoint()))
}

func stoppedTimer(do func()) *time.Timer {
	timer := time.AfterFunc(time.Hour, do)
	timer.Stop()
	return timer
}

// endpointBalancer connects gRPC's channel with the pick_first of each endpoint. It embeds the
// ClientConn to intercept the states of its children.
type endpointBalancer[Config any] struct {
	balancer.ClientConn
	children balancer.Balancer
	policy   Policy[Config]
	target   resolver.Target

	// The picker is rebuilt without a change of the children: soon, after an event, and later,
	// when time has passed.
	soon, later *time.Timer
	rebuiltAt   atomic.Int64 // time of the last rebuild, since createdAt
	rebuildTook atomic.Int64 // its duration
	createdAt   time.Time

	mu      sync.Mutex // gRPC updates from one goroutine, children and timers from others
	closed  bool
	config  parsedConfig[Config]
	zone    zone
	table   *Table
	members map[string]*member // by address: the endpoints that the resolver listed
	latest  balancer.State     // of the children
	err     error              // why there are no endpoints
}

func (b *endpointBalancer[Config]) UpdateClientConnState(state balancer.ClientConnState) error {
	config, ok := state.BalancerConfig.(parsedConfig[Config])
	if !ok {
		return fmt.Errorf("balancer: unexpected config of type %T", state.BalancerConfig)
	}
	b.mu.Lock()
	b.config = config
	b.zone = zoneOf(state.ResolverState.Attributes)
	if t := tableOf(state.ResolverState.Attributes); t != nil && t != b.table {
		b.table.remove(b)
		b.table = t
	}
	b.members = b.table.update(b, state.ResolverState.Endpoints, &config.settings.Ejection)
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

// rebuildRest bounds the part of the time that rebuilds take: that many times the duration of
// one passes before the next. With very many endpoints that fail one after the other a rebuild
// takes long.
const rebuildRest = 10

// wake rebuilds the picker soon. It may be called with any lock held.
func (b *endpointBalancer[Config]) wake() {
	b.soon.Reset(max(0, time.Duration(b.rebuiltAt.Load()+rebuildRest*b.rebuildTook.Load())-time.Since(b.createdAt)))
}

func (b *endpointBalancer[Config]) ResolverError(err error) {
	b.mu.Lock()
	b.err = err
	b.mu.Unlock()
	b.children.ResolverError(err)
}

func (b *endpointBalancer[Config]) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

func (b *endpointBalancer[Config]) ExitIdle() { b.children.ExitIdle() }

func (b *endpointBalancer[Config]) Close() {
	b.children.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.table.remove(b)
	b.soon.Stop()
	b.later.Stop()
}

// UpdateState receives the state of the children, one call at a time.
func (b *endpointBalancer[Config]) UpdateState(state balancer.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.latest = state; !b.closed {
		b.update()
	}
}

// rebuild runs when a timer fires: an ejection began or ended, a slow start has progressed.
func (b *endpointBalancer[Config]) rebuild() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed && b.latest.Picker != nil {
		b.update()
	}
}

// update gives gRPC a picker over the endpoints that are ready now. The caller holds b.mu.
func (b *endpointBalancer[Config]) update() {
	start := time.Since(b.createdAt)
	state := b.latest
	states := endpointsharding.ChildStatesFromPicker(state.Picker)
	view := newView(b.table, b, b.listedChildren(states), &b.config.settings, b.zone)
	if view.validFor > 0 {
		b.later.Reset(view.validFor)
	}
	switch {
	case len(view.Candidates) > 0:
		state.Picker = &attemptPicker{view: view, policy: b.policy.New(b.config.config, view), timesAll: b.policy.Latency}
		state.ConnectivityState = connectivity.Ready
	case state.ConnectivityState == connectivity.Ready:
		return // the resolver has listed others that the children do not have yet
	case len(states) == 0 && b.err != nil:
		state.Picker = failingPicker{b.err}
	}
	b.rebuildTook.Store(int64(time.Since(b.createdAt) - start))
	b.rebuiltAt.Store(int64(time.Since(b.createdAt)))
	b.ClientConn.UpdateState(state)
}

// listedChildren are the children that the resolver still lists.
func (b *endpointBalancer[Config]) listedChildren(states []endpointsharding.ChildState) []child {
	children := make([]child, 0, len(states))
	for _, c := range states {
		if m := b.members[addressOf(c.Endpoint)]; m != nil {
			children = append(children, child{m, c.State.ConnectivityState, c.State.Picker})
		}
	}
	return children
}

// failingPicker is the picker of a channel without endpoints.
type failingPicker struct{ reason error }

// Pick fails with the text of the reason: gRPC passes a status on, and makes everything else
// UNAVAILABLE.
func (p failingPicker) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{}, errors.New(p.reason.Error())
}
