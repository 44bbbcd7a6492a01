package callstream

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/balancer/peakewma"
	"github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// prefix of the policies that do as another one does, and show the client of the channel what
// it picks. Each has a name of its own, so that gRPC changes from one to another gracefully.
const prefix = "meshlite_callstream_"

// shown are the policies that have one.
var shown = []string{leastrequest.Name, peakewma.Name, roundrobin.Name, routes.Name}

func init() {
	for _, name := range shown {
		balancer.Register(builder{balancer.Get(name)})
	}
}

// ServiceConfig renames the policies of a service config to those that show the client what they
// pick. One without such a policy stays as it is: its calls go as they always did.
func (c *Client) ServiceConfig(serviceConfig string) string {
	if c == nil {
		return serviceConfig
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal([]byte(serviceConfig), &fields) != nil {
		return serviceConfig // gRPC says what is wrong with it
	}
	var name string
	if json.Unmarshal(fields["loadBalancingPolicy"], &name) == nil && slices.Contains(shown, name) {
		fields["loadBalancingPolicy"], _ = json.Marshal(prefix + name)
	}
	var list []map[string]json.RawMessage
	if json.Unmarshal(fields["loadBalancingConfig"], &list) == nil {
		for _, policy := range list {
			for name, config := range policy {
				if slices.Contains(shown, name) {
					delete(policy, name)
					policy[prefix+name] = config
				}
			}
		}
		fields["loadBalancingConfig"], _ = json.Marshal(list)
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return serviceConfig
	}
	return string(text)
}

type builder struct{ balancer.Builder }

func (b builder) Name() string { return prefix + b.Builder.Name() }

func (b builder) ParseConfig(text json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	return b.Builder.(balancer.ConfigParser).ParseConfig(text)
}

func (b builder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	p := &policy{ClientConn: cc, mine: map[balancer.SubConn]bool{}}
	p.Balancer = b.Builder.Build(p, opts)
	return p
}

// policy is another policy, which it stands around: it is its ClientConn, too.
type policy struct {
	balancer.Balancer
	balancer.ClientConn
	client atomic.Pointer[Client] // nil before the first update, and without Resolvers
	latest atomic.Pointer[picker]

	mu   sync.Mutex
	mine map[balancer.SubConn]bool // that are ready; nil once it is closed
}

// Resolvers attaches the client to what a resolver says, and has its service config name the
// policies of this package.
func (c *Client) Resolvers(inner resolver.Builder) resolver.Builder {
	if c == nil {
		return inner
	}
	return resolvers{inner, c}
}

type resolvers struct {
	resolver.Builder
	client *Client
}

func (r resolvers) Build(target resolver.Target, cc resolver.ClientConn, opts resolver.BuildOptions) (resolver.Resolver, error) {
	return r.Builder.Build(target, attaching{cc, r.client}, opts)
}

type attaching struct {
	resolver.ClientConn
	client *Client
}

type clientKey struct{}

func (a attaching) UpdateState(state resolver.State) error {
	state.Attributes = state.Attributes.WithValue(clientKey{}, a.client)
	return a.ClientConn.UpdateState(state)
}

func (a attaching) ParseServiceConfig(text string) *serviceconfig.ParseResult {
	return a.ClientConn.ParseServiceConfig(a.client.ServiceConfig(text))
}

func (p *policy) UpdateClientConnState(state balancer.ClientConnState) error {
	if client, ok := state.ResolverState.Attributes.Value(clientKey{}).(*Client); ok {
		p.client.Store(client)
		client.configs.Store(&rpc.Table[string, bool]{}) // gRPC has applied the service config
	}
	return p.Balancer.UpdateClientConnState(state)
}

// NewSubConn has the client notice when the connection comes and goes.
func (p *policy) NewSubConn(addresses []resolver.Address, opts balancer.NewSubConnOptions) (balancer.SubConn, error) {
	listener := opts.StateListener
	if p.client.Load() == nil || listener == nil {
		//lint:ignore SA1019 the policies inside give one address
		return p.ClientConn.NewSubConn(addresses, opts)
	}
	var to balancer.SubConn // set before it connects
	opts.StateListener = func(state balancer.SubConnState) {
		p.set(to, state.ConnectivityState)
		listener(state)
	}
	var err error
	//lint:ignore SA1019 the policies inside give one address
	to, err = p.ClientConn.NewSubConn(addresses, opts)
	return to, err
}

func (p *policy) set(to balancer.SubConn, state connectivity.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ready := state == connectivity.Ready && p.mine != nil
	if ready {
		p.mine[to] = true
	} else {
		delete(p.mine, to)
	}
	p.client.Load().connections.set(to, ready)
}

// Close is the end of the connections, of which gRPC says nothing more.
func (p *policy) Close() {
	p.Balancer.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for to := range p.mine {
		p.client.Load().connections.set(to, false)
	}
	p.mine = nil
	if client := p.client.Load(); client != nil {
		client.picker.CompareAndSwap(p.latest.Load(), nil) // its SubConns are gone
	}
}

// UpdateState shows the client the picker that gRPC is about to use.
func (p *policy) UpdateState(state balancer.State) {
	client := p.client.Load()
	shown := &picker{state.Picker, client}
	state.Picker = shown
	if client != nil {
		p.latest.Store(shown)
		client.picker.Store(shown)
	}
	p.ClientConn.UpdateState(state)
}

// picker picks as another one does, unless the call has its connection already.
type picker struct {
	balancer.Picker
	client *Client // of the channel
}

func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	// A context may be that of another channel's call: credentials and interceptors call, too.
	if to, ok := info.Ctx.Value(pickedKey{}).(*picked); ok && to.client == p.client {
		switch first := !to.taken; {
		case first && (to.stream || to.from == p):
			to.taken = true
			return to.result, nil
		case to.stream:
			return balancer.PickResult{}, errLost
		case first: // gRPC has a newer picker, which may not have that connection any more
			to.release()
		}
	}
	return p.Picker.Pick(info)
}

// picked is the connection of a call, or of a stream of this package, in its context. gRPC picks
// for one from one goroutine at a time.
type picked struct {
	client *Client
	from   *picker // nil for a stream
	result balancer.PickResult
	stream bool // which can go nowhere else
	taken  bool
}

type pickedKey struct{}

// errLost is the error of a stream whose connection was lost before it was used.
var errLost = status.Error(codes.Unavailable, "meshlite: the connection of a call stream is lost")

func isLost(err error) bool {
	s := status.Convert(err)
	return s.Code() == codes.Unavailable && s.Message() == status.Convert(errLost).Message()
}

// release ends a pick that has not come to its connection.
func (p *picked) release() {
	if p.taken {
		return
	}
	if p.taken = true; p.result.Done != nil {
		p.result.Done(balancer.DoneInfo{})
	}
}

func withPicked(ctx context.Context, p *picked) context.Context {
	return context.WithValue(ctx, pickedKey{}, p)
}
