package meshlite

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net"
	"regexp"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/authz"
	"github.com/meshlite-go/meshlite/interceptors/explained"
	"github.com/meshlite-go/meshlite/internal/callstream"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const (
	defaultMetricsAddress = "127.0.0.1:0"
	defaultHealthListener = "127.0.0.1:0"
	defaultDrain          = time.Second
	defaultStopTimeout    = 10 * time.Second
)

// Server is a gRPC server that is registered in Consul while it runs. Register
// services on it as on a *grpc.Server, then call [Server.Run].
type Server struct {
	config serverConfig
	grpc   func() *grpc.Server // makes it at its first use: from then on its workers wait
	health *health.Server
	ran    atomic.Bool

	calls       *calls
	streams     *ownStreams
	callStreams *callstream.Server // nil without

	address atomic.Pointer[net.Addr] // nil before it listens
	ready   chan struct{}            // closed when it is registered under all names

	mu       sync.Mutex
	running  bool            // the health service answers what serving says
	serving  map[string]bool // by service, as SetServing has set it
	warm     chan struct{}   // closed when "" first serves
	warmOnce sync.Once
}

var _ grpc.ServiceRegistrar = (*Server)(nil)

// serviceName is what Consul can also serve over DNS.
var serviceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// NewServer makes a server that registers itself as service. What is wrong with
// an option is an error now; nothing is opened and Consul is not asked before
// [Server.Run].
func NewServer(service string, opts ...ServerOption) (*Server, error) {
	c := serverConfig{
		drain:            defaultDrain,
		stopTimeout:      defaultStopTimeout,
		ownPerConnection: defaultOwnPerConnection,
		ownPerServer:     defaultOwnPerServer,
	}
	for _, o := range opts {
		o.applyToServer(&c)
	}
	if err := c.finish(service); err != nil {
		return nil, err
	}
	if err := enforceIntentions(&c); err != nil {
		return nil, err
	}
	chain, err := c.chain()
	if err != nil {
		return nil, err
	}
	c.runtime.site(c.directory) // from now on it is in the metrics
	c.runtime.caches.Add(c.cache, service)
	c.runtime.mutual.Add(c.identity())
	c.runtime.limits.AddServer(c.limiter, service)
	c.runtime.limits.AddHandlers(c.concurrency, service)
	for _, own := range c.own {
		if authorizer, ok := own.(*authz.Authorizer); ok {
			c.runtime.authorizers.Add(authorizer)
		}
	}
	// Interceptors among the user's options may authorize: they belong outside the
	// cache, and so outside the chain.
	s := &Server{config: c, health: health.NewServer(), serving: map[string]bool{}, warm: make(chan struct{}), ready: make(chan struct{})}
	s.calls, s.streams = &calls{}, newOwnStreams("the streams of gRPC's own services", c.ownPerConnection, c.ownPerServer)
	unary, stream := chain.UnaryServer(), s.streams.inside(chain.StreamServer())
	if c.callStreams {
		s.callStreams = &callstream.Server{}
		shared := newOwnStreams("call streams", callstream.MaxServed, math.MaxInt)
		unary, stream = callstream.AroundUnary(unary), callstream.AroundStream(stream, shared.bound)
	}
	options := append(connectionBounds(c.connectionAge()), grpc.Creds(prefaceFirst{c.creds}), grpc.UnknownServiceHandler(s.unknown), grpc.NumStreamWorkers(streamWorkers()))
	options = append(options, s.calls.options(c.serverOptions, unary, stream)...)
	s.grpc = sync.OnceValue(func() *grpc.Server {
		server := grpc.NewServer(options...)
		healthv1.RegisterHealthServer(server, s.health)
		if s.callStreams != nil {
			s.callStreams.Register(server)
		}
		return server
	})
	// Not serving until Run has everything in place.
	s.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	return s, nil
}

const (
	minStreamWorkers, maxStreamWorkers = 64, 1024
	workersPerProcessor                = 32
)

// streamWorkers is how many goroutines wait for calls. A new goroutine for each call would
// grow its stack through the interceptors each time. While all are busy, calls have new
// goroutines. Each holds about 8 KiB.
func streamWorkers() uint32 {
	return uint32(min(max(minStreamWorkers, workersPerProcessor*runtime.GOMAXPROCS(0)), maxStreamWorkers))
}

// chain joins the concerns of a server.
func (c *serverConfig) chain() (*interceptors.Chained, error) {
	concerns, err := c.concerns(c.runtime.newScope())
	if err != nil {
		return nil, err
	}
	c.limiter, c.policies, c.share = concerns.limiter, concerns.policies, newShare()
	written, err := newPolicyIntentions(c)
	if err != nil {
		return nil, err
	}
	if c.policies.HaveIntentions() {
		c.runtime.authorizers.Add(written.Authorizer)
	}
	explains, err := explained.New(explained.WithCallers(c.runtime.callers), explained.WithInstance(c.self))
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	return concerns.chain(interceptors.Server, explains, concerns.limiter.Replica(c.share.of), written,
		cmp.Or(c.concurrency, c.runtime.limits.Own()), concerns.metrics.Handlers())
}

// self is the server as it is registered under its own name, once it listens.
func (c *serverConfig) self() explained.Instance {
	own := c.registrations[0]
	self := explained.Instance{Service: own.Service, Zone: c.zone}
	if address := c.share.self().Address; address != "" {
		self.ID = cmp.Or(own.ID, catalog.InstanceID(own.Service, address))
	}
	return self
}

// RegisterService registers impl, as the generated functions do. Run the server then: its
// workers end with Run.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.GRPC().RegisterService(desc, impl)
	if s.callStreams != nil {
		s.callStreams.Add(desc, impl)
	}
}

// GRPC is the gRPC server itself, for gRPC's own services:
//
//	reflection.Register(server.GRPC())                        // for grpcurl and meshlite call
//	channelz.RegisterChannelzServiceToServer(server.GRPC())   // for grpcdebug
//
// Its workers (grpc.NumStreamWorkers: 32 per processor, 64 to 1024) wait from the first use
// on. Of a server that does not run after that, end them with GRPC().Stop().
func (s *Server) GRPC() *grpc.Server { return s.grpc() }

// Addr is the address that the server listens on, nil before it does.
func (s *Server) Addr() net.Addr {
	if address := s.address.Load(); address != nil {
		return *address
	}
	return nil
}

// Ready is closed when the server is registered under all its names.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// SetServing sets whether one service can be called, "" being all of the server, which is
// what Consul checks. The names in Consul answer as "" does. Every service can be called,
// from Run on, unless this was set. A server whose "" is set to false before Run, since it
// is still warming up, registers once it is set to true.
func (s *Server) SetServing(service string, serving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serving[service] = serving
	if s.running {
		s.setServing(service, serving)
	}
}

func (s *Server) setServing(service string, serving bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus(service, status)
	s.setNames(service, status)
	if service == "" && serving {
		s.warmOnce.Do(func() { close(s.warm) })
	}
}

// setNames sets the names in Consul as "", unless SetServing has set one of them.
func (s *Server) setNames(service string, status healthv1.HealthCheckResponse_ServingStatus) {
	for _, name := range s.config.names() {
		if _, own := s.serving[name]; service == "" && !own {
			s.health.SetServingStatus(name, status)
		}
	}
}

// serve publishes the health of every service for the first time.
func (s *Server) serve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = true
	names := map[string]bool{"": true}
	services := s.GRPC().GetServiceInfo()
	for name := range services {
		names[name] = true
	}
	s.config.runtime.metrics.Serves(services)
	warnOfIntentions(&s.config, services)
	maps.Copy(names, s.serving)
	for name, serving := range names {
		s.setServing(name, serving)
	}
}
