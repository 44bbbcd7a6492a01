package meshlite

import (
	"fmt"
	"regexp"
	"slices"
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
	defaultMetricsAddress  = "127.0.0.1:0"
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
	}
	for _, o := range opts {
		o.applyToServer(&c)
	}
	if err := c.finish(); err != nil {
		return nil, err
	}
	for _, name := range c.names {
		if !serviceName.MatchString(name) {
			return nil, fmt.Errorf("meshlite: service name %q: write up to 63 letters, digits and hyphens, as DNS allows", name)
		}
	}
	chain, err := c.chain()
	if err != nil {
		return nil, err
	}
	options := append([]grpc.ServerOption{grpc.Creds(c.creds)}, chain.ServerOptions()...)
	s := &Server{config: c, grpc: grpc.NewServer(append(options, c.serverOptions...)...), health: health.NewServer()}
	s.registerOwn()
	return s, nil
}

// registerOwn adds the services that every server has, and those asked for.
func (s *Server) registerOwn() {
	// Not serving until Run has everything in place.
	s.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	healthv1.RegisterHealthServer(s.grpc, s.health)
	if s.config.reflection {
		reflection.Register(s.grpc)
	}
	if s.config.channelz {
		service.RegisterChannelzServiceToServer(s.grpc)
	}
}

// chain puts the concerns of a server in order.
func (c *serverConfig) chain() (*interceptors.Chained, error) {
	concerns, err := c.concerns()
	if err != nil {
		return nil, err
	}
	concerns.outer = append(concerns.outer, concerns.limiter, concerns.deadline)
	return concerns.join(interceptors.Server, []interceptors.Concern{concerns.cache})
}

// RegisterService registers impl, as the generated functions do.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.grpc.RegisterService(desc, impl)
}

// GRPC is the gRPC server itself.
func (s *Server) GRPC() *grpc.Server { return s.grpc }

// SetServing says of one service whether it can be called, "" being all of the
// server, which is what Consul checks.
func (s *Server) SetServing(service string, serving bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus(service, status)
}

// services are the names for which the health service answers.
func (s *Server) services() []string {
	names := []string{""}
	for name := range s.grpc.GetServiceInfo() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
