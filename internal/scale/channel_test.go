package scale_test

import (
	"encoding/json"
	"net/url"
	"sync"
	"testing"

	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/experimental/stats"
	grpcresolver "google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/resolver"
)

// channel is gRPC's side of one channel: it passes states from the resolver to the balancer,
// one at a time, and every connection is there as soon as it is asked for.
type channel struct {
	grpcbalancer.ClientConn
	servers  *servers
	service  string
	policy   grpcbalancer.Balancer
	resolver grpcresolver.Resolver

	serial sync.Mutex // held while the balancer is called, as by gRPC

	mu      sync.Mutex
	running bool
	pending []*subConn // that are asked for
	picker  grpcbalancer.Picker
	updates int
}

// connection is of the same policy and config for all.
var parsedConfig = sync.OnceValues(func() (serviceconfig.LoadBalancingConfig, error) {
	return grpcbalancer.Get(leastrequest.Name).(grpcbalancer.ConfigParser).ParseConfig(json.RawMessage("{}"))
})

// open makes a channel of the process that builder belongs to.
func open(t testing.TB, s *servers, builder *resolver.Builder, service string) *channel {
	t.Helper()
	c := &channel{servers: s, service: service}
	c.policy = grpcbalancer.Get(leastrequest.Name).Build(c, grpcbalancer.BuildOptions{})
	target := grpcresolver.Target{URL: url.URL{Scheme: resolver.Scheme, Path: "/" + service}}
	var err error
	if c.resolver, err = builder.Build(target, states{channel: c}, grpcresolver.BuildOptions{}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *channel) close() {
	c.resolver.Close()
	c.serial.Lock()
	defer c.serial.Unlock()
	c.policy.Close()
}

// states is the side that the resolver sees.
type states struct {
	grpcresolver.ClientConn
	*channel
}

func (s states) UpdateState(state grpcresolver.State) (err error) {
	config, err := parsedConfig()
	if err != nil {
		return err
	}
	s.run(func() {
		s.updates++
		err = s.policy.UpdateClientConnState(grpcbalancer.ClientConnState{ResolverState: state, BalancerConfig: config})
	})
	return err
}

func (s states) ReportError(err error) { s.run(func() { s.policy.ResolverError(err) }) }

// run calls the balancer, and then makes the connections that it has asked for.
func (c *channel) run(call func()) {
	c.serial.Lock()
	defer c.serial.Unlock()
	c.mu.Lock()
	c.running = true
	c.mu.Unlock()
	call()
	for {
		c.mu.Lock()
		asked := c.pending
		c.pending = nil
		c.running = len(asked) > 0
		c.mu.Unlock()
		if len(asked) == 0 {
			return
		}
		for _, s := range asked {
			s.connect()
		}
	}
}

func (c *channel) UpdateState(state grpcbalancer.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.picker = state.Picker
}

// pick returns the instance of one pick.
func (c *channel) pick() (*instance, error) {
	c.mu.Lock()
	picker := c.picker
	c.mu.Unlock()
	if picker == nil {
		return nil, grpcbalancer.ErrNoSubConnAvailable
	}
	result, err := picker.Pick(grpcbalancer.PickInfo{FullMethodName: "/grpc.health.v1.Health/Check", Ctx: background})
	if err != nil {
		return nil, err
	}
	if result.Done != nil {
		result.Done(grpcbalancer.DoneInfo{BytesSent: true, BytesReceived: true})
	}
	return result.SubConn.(*subConn).instance, nil
}

func (c *channel) NewSubConn(addresses []grpcresolver.Address, opts grpcbalancer.NewSubConnOptions) (grpcbalancer.SubConn, error) {
	c.servers.mu.Lock()
	defer c.servers.mu.Unlock()
	return &subConn{channel: c, instance: c.servers.instances[addresses[0].Addr], listener: opts.StateListener}, nil
}

func (c *channel) ResolveNow(grpcresolver.ResolveNowOptions) {}
func (c *channel) Target() string                            { return "consul:///" + c.service }
func (c *channel) MetricsRecorder() stats.MetricsRecorder    { return recorder{} }

type recorder struct{ stats.MetricsRecorder }

func (recorder) RecordInt64Count(*stats.Int64CountHandle, int64, ...string)             {}
func (recorder) RecordInt64UpDownCount(*stats.Int64UpDownCountHandle, int64, ...string) {}

type subConn struct {
	grpcbalancer.SubConn
	channel  *channel
	instance *instance
	listener func(grpcbalancer.SubConnState)
	health   func(grpcbalancer.SubConnState)
	ready    bool
}

// Connect is how the balancer asks for the connection.
func (s *subConn) Connect() {
	c := s.channel
	c.mu.Lock()
	c.pending = append(c.pending, s)
	idle := !c.running
	c.mu.Unlock()
	if idle {
		go c.run(func() {})
	}
}

func (s *subConn) connect() {
	s.listener(grpcbalancer.SubConnState{ConnectivityState: connectivity.Connecting})
	s.ready = true
	s.instance.open.Add(1)
	s.instance.lastConnect.Store(int64(s.channel.servers.now()))
	s.listener(grpcbalancer.SubConnState{ConnectivityState: connectivity.Ready})
	if s.health != nil {
		s.health(grpcbalancer.SubConnState{ConnectivityState: connectivity.Ready})
	}
}

// Shutdown is how the balancer closes it. It runs while the channel is locked.
func (s *subConn) Shutdown() {
	if s.ready {
		s.ready = false
		s.instance.open.Add(-1)
		s.instance.lastDisconnect.Store(int64(s.channel.servers.now()))
	}
}

func (s *subConn) RegisterHealthListener(listener func(grpcbalancer.SubConnState)) {
	s.health = listener
}
