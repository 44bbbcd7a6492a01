// Package balancertest drives a policy as gRPC does, with connections that a test
// makes ready by hand: a pick is then the policy's own work and nothing else.
package balancertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/experimental/stats"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	meshbalancer "github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Channel is gRPC's side of a policy.
type Channel struct {
	balancer.ClientConn
	Policy balancer.Balancer
	// Table is the state of the endpoints. Channels may share one: set it before Update.
	Table *meshbalancer.Table
	// Region and Zone are where the channel runs.
	Region, Zone string

	t    testing.TB
	name string

	mu   sync.Mutex          // policies also update from goroutines of their own
	subs map[string]*subConn // by address

	opened, closed int // connections
	state          balancer.State
	asked          func(*subConn) // called when the policy requests a connection, if not nil
}

type subConn struct {
	balancer.SubConn
	channel  *Channel
	address  string
	index    int
	listener func(balancer.SubConnState)
	health   func(balancer.SubConnState)
	asked    chan struct{} // holds one while the policy wants a connection
	ready    bool
	failing  bool        // an attempt has failed, and its backoff goes on; see Serve
	shut     atomic.Bool // the policy has given it up
}

// Connect is how the policy asks for a connection.
func (s *subConn) Connect() {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	if requested := s.channel.listener(); requested != nil {
		requested(s)
	}
}

// Shutdown is how the policy gives it up.
func (s *subConn) Shutdown() {
	s.channel.mu.Lock()
	defer s.channel.mu.Unlock()
	s.channel.closed++
	s.shut.Store(true)
}

// Serve gives the policy the connections that it requests to endpoints that are up, and fails and
// ends those to others, until nothing changes. wait returns when goroutines have nothing to do.
func (c *Channel) Serve(up func(i int) bool, wait func()) {
	for changed := true; changed; {
		wait()
		changed = false
		c.mu.Lock()
		subs := slices.Collect(maps.Values(c.subs))
		c.mu.Unlock()
		slices.SortFunc(subs, func(a, b *subConn) int { return a.index - b.index })
		for _, s := range subs {
			if !s.shut.Load() && s.serve(up(s.index)) {
				changed = true
			}
		}
	}
}

func (s *subConn) serve(up bool) (changed bool) {
	if s.ready != up && (s.ready || s.failing) { // it is lost, or the backoff is over
		s.failing = false
		s.connect(connectivity.Idle)
		return true
	}
	if s.ready || len(s.asked) == 0 {
		return false
	}
	if up {
		s.connect(connectivity.Ready)
		return true
	}
	<-s.asked
	s.connect(connectivity.Connecting)
	s.connect(connectivity.TransientFailure)
	s.failing = true
	return true
}

// Connections counts those that the policy has made and given up.
func (c *Channel) Connections() (opened, closed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opened, c.closed
}

// RegisterHealthListener is how pick_first asks for the health of a connection.
func (s *subConn) RegisterHealthListener(listener func(balancer.SubConnState)) { s.health = listener }

// New builds the policy called name.
func New(t testing.TB, name string) *Channel {
	t.Helper()
	c := &Channel{Table: meshbalancer.NewTable(), t: t, name: name}
	if balancer.Get(name) == nil {
		t.Fatalf("policy %q is not registered", name)
	}
	c.Reopen()
	return c
}

// Reopen builds the policy anew, as a channel does that leaves idleness. Close the
// one before.
func (c *Channel) Reopen() {
	c.mu.Lock()
	c.subs = map[string]*subConn{}
	c.mu.Unlock()
	policy := balancer.Get(c.name).Build(c, balancer.BuildOptions{})
	c.Policy = policy
	c.t.Cleanup(policy.Close)
}

// NewSubConn, UpdateState and the others are called by the policy.
func (c *Channel) NewSubConn(addresses []resolver.Address, opts balancer.NewSubConnOptions) (balancer.SubConn, error) {
	s := &subConn{channel: c, address: addresses[0].Addr, listener: opts.StateListener, asked: make(chan struct{}, 1)}
	var block, i int
	if _, err := fmt.Sscanf(s.address, "10.0.%d.%d:80", &block, &i); err != nil {
		return nil, fmt.Errorf("%s is no Address: %w", s.address, err)
	}
	s.index = block*250 + i
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs[s.address] = s
	c.opened++
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
func (recorder) RecordFloat64Histo(*stats.Float64HistoHandle, float64, ...string)       {}

// Address is the address of the i-th endpoint.
func Address(i int) string { return fmt.Sprintf("10.0.%d.%d:80", i/250, i%250) }

// Instances are one instance for each weight, at Address(0) and so on.
func Instances(weights ...uint32) []*catalog.Instance {
	instances := make([]*catalog.Instance, len(weights))
	for i, w := range weights {
		instances[i] = &catalog.Instance{ID: fmt.Sprintf("backend-%d", i), Address: Address(i), Weight: w}
	}
	return instances
}

// Update gives the policy one endpoint for each weight, and the policy's
// config as JSON.
func (c *Channel) Update(config string, weights ...uint32) error {
	c.t.Helper()
	return c.UpdateInstances(config, Instances(weights...)...)
}

// UpdateInstances gives the policy instances.
func (c *Channel) UpdateInstances(config string, instances ...*catalog.Instance) error {
	c.t.Helper()
	return c.UpdateResolver(config, meshbalancer.WithZone(meshbalancer.WithTable(StateOf(instances...), c.Table), c.Region, c.Zone))
}

// StateOf is what a resolver says of instances.
func StateOf(instances ...*catalog.Instance) (state resolver.State) {
	for _, i := range instances {
		state.Endpoints = append(state.Endpoints, meshbalancer.NewEndpoint(i, ""))
	}
	return state
}

// UpdateResolver gives the policy what a resolver says.
func (c *Channel) UpdateResolver(config string, state resolver.State) error {
	c.t.Helper()
	var parsed serviceconfig.LoadBalancingConfig
	if parser, ok := balancer.Get(c.name).(balancer.ConfigParser); ok {
		var err error
		if parsed, err = parser.ParseConfig(json.RawMessage(config)); err != nil {
			return err
		}
	}
	return c.Policy.UpdateClientConnState(balancer.ClientConnState{ResolverState: state, BalancerConfig: parsed})
}

// Connect puts the i-th endpoint's connection into a state: ready as soon as the
// policy has asked for a connection.
func (c *Channel) Connect(i int, state connectivity.State) { c.sub(Address(i)).connect(state) }

// Break ends the i-th endpoint's connection, and the attempt to make another.
func (c *Channel) Break(i int) {
	c.Connect(i, connectivity.Idle)
	s := c.sub(Address(i))
	<-s.asked
	s.connect(connectivity.Connecting)
	s.connect(connectivity.TransientFailure)
}

// Reconnect makes another connection to the i-th endpoint, which has none.
func (c *Channel) Reconnect(i int) {
	c.Connect(i, connectivity.Idle)
	c.Connect(i, connectivity.Ready)
}

// sub is the newest connection to address.
func (c *Channel) sub(address string) *subConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.subs[address]
}

var errRefused = errors.New("connection refused")

func (s *subConn) connect(state connectivity.State) {
	s.ready = state == connectivity.Ready
	if state == connectivity.Ready {
		<-s.asked
		s.listener(balancer.SubConnState{ConnectivityState: connectivity.Connecting})
	}
	next := balancer.SubConnState{ConnectivityState: state}
	if state == connectivity.TransientFailure {
		next.ConnectionError = errRefused
	}
	s.listener(next)
	if state == connectivity.Ready && s.health != nil {
		s.health(balancer.SubConnState{ConnectivityState: state})
	}
}

// Ready gives the policy endpoints of these weights and makes all of them
// ready.
func (c *Channel) Ready(config string, weights ...uint32) {
	c.t.Helper()
	c.ReadyInstances(config, Instances(weights...)...)
}

// ReadyInstances gives the policy instances and makes all that are not ready
// already.
func (c *Channel) ReadyInstances(config string, instances ...*catalog.Instance) {
	c.t.Helper()
	if err := c.UpdateInstances(config, instances...); err != nil {
		c.t.Fatal(err)
	}
	for _, i := range instances {
		if s := c.sub(i.Address); !s.ready {
			s.connect(connectivity.Ready)
		}
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

// IndexOf is the i of the Address where a pick went.
func IndexOf(result balancer.PickResult) int { return result.SubConn.(*subConn).index }

// AddressOf is where a pick went.
func AddressOf(result balancer.PickResult) string { return result.SubConn.(*subConn).address }

// ReadyMany gives a policy without endpoints n equal ones, and makes each ready while the policy
// requests a connection to the next. Policies are notified of their children after that, so the
// picker is built once or twice and not for every endpoint: 10,000 take a moment, not a minute.
func (c *Channel) ReadyMany(config string, n int) {
	c.t.Helper()
	var last *subConn
	c.listen(func(s *subConn) {
		if last != nil {
			last.connect(connectivity.Ready)
		}
		last = s
	})
	err := c.Update(config, Equal(n)...)
	c.listen(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	last.connect(connectivity.Ready)
}

func (c *Channel) listen(requested func(*subConn)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = requested
}

func (c *Channel) listener() func(*subConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// RefusesConfigs fails unless the policy called name refuses each config, with an error that names
// the policy and has the text beside the config.
func RefusesConfigs(t *testing.T, name string, wants map[string]string) {
	t.Helper()
	for config, want := range wants {
		err := New(t, name).Update(config, 1)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
			t.Errorf("config %s: the error is %v, want one that names the policy and has %q", config, err, want)
		}
	}
}

// PicksIfAccepted fails if the policy called name accepts a config with which it does not pick, of
// as many endpoints as policies compare and of more.
func PicksIfAccepted(t *testing.T, name, config string) {
	t.Helper()
	for _, n := range []int{3, 20} {
		c := New(t, name)
		if c.Update(config, Equal(n)...) != nil {
			return
		}
		c.Ready(config, Equal(n)...)
		result, err := c.Picker().Pick(balancer.PickInfo{Ctx: context.Background()})
		if err != nil {
			t.Errorf("an accepted config does not pick: %v", err)
			return
		}
		result.Done(balancer.DoneInfo{BytesSent: true, BytesReceived: true})
	}
}
