// Package balancer is what every policy below it shares: the table of endpoints,
// and the way from gRPC's connections to a picker over the ready ones.
//
// A policy is a name, a config and a picker made anew, and never changed, each
// time the set of ready endpoints changes:
//
//	func init() { balancer.Register(Name, parseConfig, newPicker) }
//
// One pick_first per endpoint holds the connection, as gRPC's own policies do
// (gRFC A61). What is experimental in grpc-go's balancer API is used here; the
// policies see its Picker and no more.
package balancer

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// Register makes a policy known to gRPC as name. Call it from an init function
// only. parse checks the policy's part of a service config; newPicker gets what
// parse answered and at least one ready endpoint, and answers a picker that
// must be safe for concurrent use.
func Register[Config any](name string, parse func(json.RawMessage) (Config, error), newPicker func(Config, []Ready) balancer.Picker) {
	balancer.Register(builder[Config]{name, parse, newPicker})
	registered = append(registered, name)
}

type builder[Config any] struct {
	name      string
	parse     func(json.RawMessage) (Config, error)
	newPicker func(Config, []Ready) balancer.Picker
}

// parsed carries a Config through gRPC.
type parsed[Config any] struct {
	serviceconfig.LoadBalancingConfig
	config Config
}

func (b builder[Config]) Name() string { return b.name }

func (b builder[Config]) ParseConfig(text json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	config, err := b.parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.name, err)
	}
	return parsed[Config]{config: config}, nil
}

func (b builder[Config]) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	p := &petiole[Config]{ClientConn: cc, newPicker: b.newPicker, target: opts.Target, table: NewTable()}
	p.children = endpointsharding.NewBalancer(p, opts, balancer.Get(pickfirst.Name).Build, endpointsharding.Options{})
	return p
}

// petiole stands between gRPC and the pick_first of each endpoint (gRFC A61's
// word). It embeds the ClientConn to hear of the children's states.
type petiole[Config any] struct {
	balancer.ClientConn
	children  balancer.Balancer
	newPicker func(Config, []Ready) balancer.Picker
	target    resolver.Target

	mu     sync.Mutex // gRPC updates from one goroutine, children from others
	config Config
	table  *Table
	held   []*Endpoint // borrowed from table
	err    error       // why there is no endpoint
}

func (p *petiole[Config]) UpdateClientConnState(state balancer.ClientConnState) error {
	config, ok := state.BalancerConfig.(parsed[Config])
	if !ok {
		return fmt.Errorf("balancer: unexpected config of type %T", state.BalancerConfig)
	}
	p.mu.Lock()
	p.config = config.config
	if t := tableOf(state.ResolverState.Attributes); t != nil && t != p.table {
		p.table.Exchange(p.held, nil)
		p.table, p.held = t, nil
	}
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
	p.table.Exchange(p.held, nil)
	p.held = nil
}

// UpdateState hears of the children, one call at a time, and replaces their
// picker by the policy's as soon as one of them is ready.
func (p *petiole[Config]) UpdateState(state balancer.State) {
	children := endpointsharding.ChildStatesFromPicker(state.Picker)
	p.mu.Lock()
	defer p.mu.Unlock()
	ready := p.ready(children)
	switch {
	case len(ready) > 0:
		state.Picker = p.newPicker(p.config, ready)
		state.ConnectivityState = connectivity.Ready
	case len(children) == 0 && p.err != nil:
		state.Picker = failing{p.err}
	}
	p.ClientConn.UpdateState(state)
}

func (p *petiole[Config]) ready(children []endpointsharding.ChildState) []Ready {
	var endpoints []resolver.Endpoint
	var pickers []balancer.Picker
	var instances []attempt.Instance
	for _, child := range children {
		if child.State.ConnectivityState == connectivity.Ready {
			endpoints = append(endpoints, child.Endpoint)
			pickers = append(pickers, child.State.Picker)
			instances = append(instances, identify(child.Endpoint))
		}
	}
	ready := make([]Ready, len(endpoints))
	p.held = p.table.Exchange(p.held, instances)
	for i, known := range p.held {
		ready[i] = newReady(known, weightOf(endpoints[i]), pickers[i])
	}
	return ready
}

// failing is the picker of a channel without endpoints.
type failing struct{ reason error }

// Pick fails with the reason as text, whatever it is: gRPC would pass a status on
// and makes Unavailable of everything else.
func (f failing) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{}, errors.New(f.reason.Error())
}
