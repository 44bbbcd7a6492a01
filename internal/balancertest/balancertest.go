// Package balancertest drives a policy as gRPC does, with connections that a test
// makes ready by hand: a pick is then the policy's own work and nothing else.
package balancertest

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/experimental/balancer/weight"
	"google.golang.org/grpc/experimental/stats"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
)

// Channel is gRPC's side of a policy.
type Channel struct {
	balancer.ClientConn
	Policy balancer.Balancer

	t    testing.TB
	name string
	subs map[string]*subConn

	mu    sync.Mutex // policies also update from goroutines of their own
	state balancer.State
}

type subConn struct {
	balancer.SubConn
	address  string
	listener func(balancer.SubConnState)
	health   func(balancer.SubConnState)
	asked    chan struct{} // holds one while the policy wants a connection
}

// Connect is how the policy asks for a connection.
func (s *subConn) Connect() {
	select {
	case s.asked <- struct{}{}:
	default:
	}
}

// Shutdown is how the policy gives it up.
func (s *subConn) Shutdown() {}

// RegisterHealthListener is how pick_first asks for the health of a connection.
func (s *subConn) RegisterHealthListener(listener func(balancer.SubConnState)) { s.health = listener }

// New builds the policy called name.
func New(t testing.TB, name string) *Channel {
	t.Helper()
	c := &Channel{t: t, name: name, subs: map[string]*subConn{}}
	builder := balancer.Get(name)
	if builder == nil {
		t.Fatalf("policy %q is not registered", name)
	}
	c.Policy = builder.Build(c, balancer.BuildOptions{})
	t.Cleanup(c.Policy.Close)
	return c
}

// NewSubConn, UpdateState and the others are called by the policy.
func (c *Channel) NewSubConn(addresses []resolver.Address, opts balancer.NewSubConnOptions) (balancer.SubConn, error) {
	s := &subConn{address: addresses[0].Addr, listener: opts.StateListener, asked: make(chan struct{}, 1)}
	c.subs[s.address] = s
	return s, nil
}

// UpdateState takes the policy's picker.
func (c *Channel) UpdateState(state balancer.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = state
}

func (c *Channel) newest() balancer.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// ResolveNow does nothing.
func (c *Channel) ResolveNow(resolver.ResolveNowOptions) {}

// MetricsRecorder records nothing.
func (c *Channel) MetricsRecorder() stats.MetricsRecorder { return recorder{} }

type recorder struct{ stats.MetricsRecorder }

func (recorder) RecordInt64Count(*stats.Int64CountHandle, int64, ...string)             {}
func (recorder) RecordInt64UpDownCount(*stats.Int64UpDownCountHandle, int64, ...string) {}

// Address is the address of the i-th endpoint.
func Address(i int) string { return fmt.Sprintf("10.0.%d.%d:80", i/250, i%250) }

// Update tells the policy of one endpoint for each weight, and the policy's
// config as JSON.
func (c *Channel) Update(config string, weights ...uint32) error {
	c.t.Helper()
	var parsed serviceconfig.LoadBalancingConfig
	if parser, ok := balancer.Get(c.name).(balancer.ConfigParser); ok {
		var err error
		if parsed, err = parser.ParseConfig(json.RawMessage(config)); err != nil {
			return err
		}
	}
	var state resolver.State
	for i, w := range weights {
		endpoint := resolver.Endpoint{Addresses: []resolver.Address{{Addr: Address(i)}}}
		state.Endpoints = append(state.Endpoints, weight.Set(endpoint, weight.EndpointInfo{Weight: w}))
	}
	return c.Policy.UpdateClientConnState(balancer.ClientConnState{ResolverState: state, BalancerConfig: parsed})
}

// Connect puts the i-th endpoint's connection into a state: ready as soon as the
// policy has asked for a connection.
func (c *Channel) Connect(i int, state connectivity.State) {
	s := c.subs[Address(i)]
	if state == connectivity.Ready {
		<-s.asked
		s.listener(balancer.SubConnState{ConnectivityState: connectivity.Connecting})
	}
	s.listener(balancer.SubConnState{ConnectivityState: state})
	if state == connectivity.Ready && s.health != nil {
		s.health(balancer.SubConnState{ConnectivityState: state})
	}
}

// Ready tells the policy of endpoints of these weights and makes all of them
// ready.
func (c *Channel) Ready(config string, weights ...uint32) {
	c.t.Helper()
	if err := c.Update(config, weights...); err != nil {
		c.t.Fatal(err)
	}
	for i := range weights {
		c.Connect(i, connectivity.Ready)
	}
}

// Picker is the policy's newest.
func (c *Channel) Picker() balancer.Picker { return c.newest().Picker }

// State is the policy's newest connectivity.
func (c *Channel) State() connectivity.State { return c.newest().ConnectivityState }

// Equal is n weights of 1.
func Equal(n int) []uint32 {
	weights := make([]uint32, n)
	for i := range weights {
		weights[i] = 1
	}
	return weights
}

// AddressOf is where a pick went.
func AddressOf(result balancer.PickResult) string { return result.SubConn.(*subConn).address }
