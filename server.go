package meshlite

import (
	"cmp"
	"maps"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/channelz/service"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/meshlite-go/meshlite/interceptors"
)

const (
	metricsOff             = "off"
	selfCheckOff           = "off"
	defaultMetricsAddress  = "127.0.0.1:0"
	defaultHealthListener  = "127.0.0.1:0"
	defaultDrain           = time.Second
	defaultStopTimeout     = 10 * time.Second
	defaultDeregisterAfter = time.Minute
)

// Server is a gRPC server that is registered in Consul while it runs. Register
// services on it as on a *grpc.Server, then call [Server.Run].
type Server struct {
	config serverConfig
	grpc   *grpc.Server
	health *health.Server
	ran    atomic.Bool

	calls   *calls
	streams *ownStreams

	mu       sync.Mutex
	running  bool            // the health service tells the truth
	told     map[string]bool // what SetServing has said
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
		names:           []string{service},
		metrics:         defaultMetricsAddress,
		weight:          1,
		warningWeight:   1,
		drain:           defaultDrain,
		stopTimeout:     defaultStopTimeout,
		deregisterAfter: defaultDeregisterAfter,

		ownPerConnection: defaultOwnPerConnection,
		ownPerServer:     defaultOwnPerServer,
	}
	for _, o := range opts {
		o.applyToServer(&c)
	}
	if err := c.finish(); err != nil {
		return nil, err
	}
	chain, err := c.chain()
	if err != nil {
		return nil, err
	}
	c.runtime.site(c.directory) // from now on the metrics tell of it
	c.runtime.caches.Add(c.cache, service)
	c.runtime.limits.AddServer(c.limiter, service)
	c.runtime.limits.AddHandlers(c.concurrency, service)
	// Interceptors among the user's options may authorize: they belong outside the
	// cache, and so outside the chain.
	s := &Server{config: c, health: health.NewServer(), told: map[string]bool{}, warm: make(chan struct{})}
	s.calls, s.streams = &calls{}, newOwnStreams(c.ownPerConnection, c.ownPerServer)
	options := append(connectionBounds(), grpc.Creds(prefaceFirst{c.creds}), grpc.UnknownServiceHandler(s.unknown))
	s.grpc = grpc.NewServer(append(options, s.calls.options(c.serverOptions, chain)...)...)
	s.registerOwn()
	return s, nil
}

// registerOwn adds the services that every server has, and those asked for.
func (s *Server) registerOwn() {
	// Not serving until Run has everything in place.
	s.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	healthv1.RegisterHealthServer(s, s.health)
	if s.config.reflection {
		reflection.Register(struct {
			grpc.ServiceRegistrar
			reflection.ServiceInfoProvider
		}{s, s.grpc})
	}
	if s.config.channelz {
		service.RegisterChannelzServiceToServer(s)
	}
}

// chain puts the concerns of a server in order.
func (c *serverConfig) chain() (*interceptors.Chained, error) {
	concerns, err := c.concerns(c.runtime.newScope())
	if err != nil {
		return nil, err
	}
	c.limiter, c.policies, c.share = concerns.limiter, concerns.policies, newShare() // which the server tells of
	concerns.outer = append(concerns.outer, concerns.limiter.Replica(c.share.of), concerns.deadline)
	inner := []interceptors.Concern{concerns.cache, cmp.Or(c.concurrency, c.runtime.limits.Own()), concerns.metrics.Handlers()}
	return concerns.join(interceptors.Server, inner)
}

// RegisterService registers impl, as the generated functions do.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.grpc.RegisterService(s.streams.bound(desc), impl)
}

// GRPC is the gRPC server itself.
func (s *Server) GRPC() *grpc.Server { return s.grpc }

// SetServing says of one service whether it can be called, "" being all of the
// server, which is what Consul checks. The names in Consul answer as "" does. Every
// service can be called, from Run on, unless this has said otherwise. A server that does
// not serve "" before Run, since it is still warming up, registers once it does.
func (s *Server) SetServing(service string, serving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told[service] = serving
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

// setNames answers for the names in Consul as for "", unless SetServing has named one.
func (s *Server) setNames(service string, status healthv1.HealthCheckResponse_ServingStatus) {
	for _, name := range s.config.names {
		if _, own := s.told[name]; service == "" && !own {
			s.health.SetServingStatus(name, status)
		}
	}
}

// serve tells the health of every service for the first time.
func (s *Server) serve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = true
	names := map[string]bool{"": true}
	services := s.grpc.GetServiceInfo()
	for name := range services {
		names[name] = true
	}
	s.config.runtime.metrics.Serves(services)
	maps.Copy(names, s.told)
	for name, serving := range names {
		s.setServing(name, serving)
	}
}
