package meshlite

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// ClientOption changes what [NewClient] makes.
type ClientOption interface{ applyToClient(*clientConfig) }

// ServerOption changes what [NewServer] makes.
type ServerOption interface{ applyToServer(*serverConfig) }

// Option changes either side.
type Option interface {
	ClientOption
	ServerOption
}

// Directory is where services register and are found: a *consul.Directory.
type Directory interface {
	catalog.Watcher
	catalog.Registrar
}

// config is what both sides have.
type config struct {
	plaintext bool
	creds     credentials.TransportCredentials
	runtime   *Runtime
	directory Directory
	log       *slog.Logger
	policy    *policyv1.ServicePolicy
	own       *interceptors.Interceptors
	cache     *cache.Cache
	limiter   *ratelimit.Limiter
}

type clientConfig struct {
	config
	balancer      string
	serviceConfig string
	subset        int
	snapshots     *string // directory
	resolver      []resolver.Option
	dialOptions   []grpc.DialOption
}

type serverConfig struct {
	config
	listen, advertised, check, metrics string
	port                               string
	names                              []string
	tags                               []string
	metadata                           map[string]string
	weight, warningWeight              uint32
	drain, stopTimeout                 time.Duration
	deregisterAfter, ttl               time.Duration
	ttlGiven                           bool
	region, zone                       string
	reflection, channelz               bool
	serverOptions                      []grpc.ServerOption
}

type (
	option       func(*config)
	clientOption func(*clientConfig)
	serverOption func(*serverConfig)
)

func (o option) applyToClient(c *clientConfig)       { o(&c.config) }
func (o option) applyToServer(c *serverConfig)       { o(&c.config) }
func (o clientOption) applyToClient(c *clientConfig) { o(c) }
func (o serverOption) applyToServer(c *serverConfig) { o(c) }

// WithPlaintext asks for connections without TLS. Anybody on the network can
// then read and change what is sent.
func WithPlaintext() Option { return option(func(c *config) { c.plaintext = true }) }

// WithTLS asks for TLS. On a client, the name that a server must prove is the
// name of the service unless settings name another.
func WithTLS(settings *tls.Config) Option {
	return WithTransportCredentials(credentials.NewTLS(settings))
}

// WithTransportCredentials asks for any transport security that gRPC knows.
func WithTransportCredentials(creds credentials.TransportCredentials) Option {
	return option(func(c *config) { c.creds = creds })
}

// WithRuntime shares r instead of the process's default runtime.
func WithRuntime(r *Runtime) Option { return option(func(c *config) { c.runtime = r }) }

// WithConsul uses directory instead of the agent that the environment names.
func WithConsul(directory Directory) Option {
	return option(func(c *config) { c.directory = directory })
}

// WithLogger logs to log instead of slog.Default().
func WithLogger(log *slog.Logger) Option { return option(func(c *config) { c.log = log }) }

// WithPolicy changes the policies that the contracts declare, field by field.
func WithPolicy(policy *policyv1.ServicePolicy) Option {
	return option(func(c *config) { c.policy = policy })
}

// WithInterceptors adds interceptors of the user's own. They see every call that
// was not refused before and, on a client, calls rather than attempts.
func WithInterceptors(own interceptors.Interceptors) Option {
	return option(func(c *config) { c.own = &own })
}

// WithCache keeps answers in cache instead of the runtime's, for instance because it
// knows who calls. Its owner closes it, and counts its results by an observer.
func WithCache(cache *cache.Cache) Option { return option(func(c *config) { c.cache = cache }) }

// WithRateLimit counts in limiter instead of one of this channel or server alone.
// Its owner counts its verdicts by an observer.
func WithRateLimit(limiter *ratelimit.Limiter) Option {
	return option(func(c *config) { c.limiter = limiter })
}

// WithBalancer chooses the policy of picking where neither the target nor a
// service config names one: "round_robin", "least_request", or "grpc:NAME" for
// one that is registered with gRPC. Default: least_request.
func WithBalancer(policy string) ClientOption {
	return clientOption(func(c *clientConfig) { c.balancer = policy })
}

// WithServiceConfig gives the channel a service config of gRPC, as JSON. A policy
// in the target replaces the policy in it.
func WithServiceConfig(json string) ClientOption {
	return clientOption(func(c *clientConfig) { c.serviceConfig = json })
}

// WithWarning also calls instances in warning state, with Consul's warning weight.
func WithWarning() ClientOption {
	return clientOption(func(c *clientConfig) { c.resolver = append(c.resolver, resolver.WithWarning()) })
}

// WithDialOptions passes options on to grpc.NewClient. They win over ours.
// Interceptors among them run outside of all concerns, the cache and the metrics
// too; those of [WithInterceptors] have their place inside.
func WithDialOptions(options ...grpc.DialOption) ClientOption {
	return clientOption(func(c *clientConfig) { c.dialOptions = append(c.dialOptions, options...) })
}

// WithPort is the port of the advertised host where calls are accepted: a number,
// or "" for a free one, so that os.Getenv("PORT") can be given as it is.
func WithPort(port string) ServerOption {
	return serverOption(func(c *serverConfig) { c.port = port })
}

// WithListenAddress is where calls are accepted, "host:port"; ":8080" is every
// address of the machine. Default: the advertised host and the port of WithPort.
func WithListenAddress(address string) ServerOption {
	return serverOption(func(c *serverConfig) { c.listen = address })
}

// WithAdvertisedAddress is where clients find the server: "host", or "host:port"
// where the port is not the one listened on. Default: the host listened on, or
// the address of the agent's node. The host is also listened on unless
// WithListenAddress says where.
func WithAdvertisedAddress(address string) ServerOption {
	return serverOption(func(c *serverConfig) { c.advertised = address })
}

// WithHealthCheckAddress is where Consul checks the health, "host:port". Default:
// the advertised address.
func WithHealthCheckAddress(address string) ServerOption {
	return serverOption(func(c *serverConfig) { c.check = address })
}

// WithMetricsAddress is where /metrics, /healthz and /debug/meshlite are served, and
// /debug/pprof if it is a loopback address. Default: a free port of 127.0.0.1. "off" is
// nowhere.
func WithMetricsAddress(address string) ServerOption {
	return serverOption(func(c *serverConfig) { c.metrics = address })
}

// WithServiceNames registers the server under further names.
func WithServiceNames(names ...string) ServerOption {
	return serverOption(func(c *serverConfig) { c.names = append(c.names, names...) })
}

// WithTags registers the server with Consul tags.
func WithTags(tags ...string) ServerOption {
	return serverOption(func(c *serverConfig) { c.tags = append(c.tags, tags...) })
}

// WithMetadata registers the server with Consul service metadata. The key
// "metrics_address" is taken: it tells where /metrics is.
func WithMetadata(metadata map[string]string) ServerOption {
	return serverOption(func(c *serverConfig) { c.metadata = metadata })
}

// WithWeight sets the server's part of the traffic relative to other instances,
// at least 1, and the part while a check of it warns, 0 for none. Default: 1 and 1.
func WithWeight(passing, warning uint32) ServerOption {
	return serverOption(func(c *serverConfig) { c.weight, c.warningWeight = passing, warning })
}

// WithDeregisterAfter makes Consul forget an instance that died without a word
// after this time: at least one minute, 0 is never. Default: 1 min.
func WithDeregisterAfter(d time.Duration) ServerOption {
	return serverOption(func(c *serverConfig) { c.deregisterAfter = d })
}

// WithDrain sets how long a server that stops still accepts calls after it has
// left Consul, so that clients have heard of it, and how long running calls have
// to end after that before they are cut off. Default: 1 s and 10 s.
func WithDrain(drain, stopTimeout time.Duration) ServerOption {
	return serverOption(func(c *serverConfig) { c.drain, c.stopTimeout = drain, stopTimeout })
}

// WithReflection lets clients such as grpcurl ask for the contracts.
func WithReflection() ServerOption {
	return serverOption(func(c *serverConfig) { c.reflection = true })
}

// WithChannelz serves gRPC's channelz on the server's own port, for grpcdebug.
func WithChannelz() ServerOption {
	return serverOption(func(c *serverConfig) { c.channelz = true })
}

// WithServerOptions passes options on to grpc.NewServer. They win over ours.
// Interceptors among them run outside of all concerns, the cache and the metrics
// too; those of [WithInterceptors] have their place inside.
func WithServerOptions(options ...grpc.ServerOption) ServerOption {
	return serverOption(func(c *serverConfig) { c.serverOptions = append(c.serverOptions, options...) })
}

// finish checks what both sides have and fills in what was not said.
func (c *config) finish() error {
	switch {
	case c.plaintext && c.creds != nil:
		return errors.New("meshlite: both WithPlaintext and TLS are given: leave one of them out")
	case c.plaintext:
		c.creds = insecure.NewCredentials()
	case c.creds == nil:
		return errors.New("meshlite: no transport security: give WithTLS, or WithPlaintext if nobody can eavesdrop on the network")
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	if c.runtime == nil {
		c.runtime = DefaultRuntime()
	}
	if c.directory != nil && !reflect.TypeOf(c.directory).Comparable() {
		return fmt.Errorf("meshlite: WithConsul: a %T cannot be told from another: give a pointer", c.directory)
	}
	return nil
}

// findConsul takes the agent that the environment names unless an option has
// named another.
func (c *config) findConsul() error {
	if c.directory != nil {
		return nil
	}
	directory, err := c.runtime.consul()
	if err != nil {
		return err
	}
	c.directory = directory
	return nil
}

func (c *serverConfig) finish() error {
	if err := c.config.finish(); err != nil {
		return err
	}
	if err := c.findConsul(); err != nil {
		return err
	}
	if err := c.checkAddresses(); err != nil {
		return err
	}
	if c.weight == 0 {
		return optionError("WithWeight", "0", "write at least 1; an instance that should get no calls is not registered")
	}
	if c.drain < 0 || c.stopTimeout < 0 {
		return optionError("WithDrain", c.drain.String()+", "+c.stopTimeout.String(), "write durations from 0 on")
	}
	if c.deregisterAfter != 0 && c.deregisterAfter < time.Minute {
		return optionError("WithDeregisterAfter", c.deregisterAfter.String(), "write at least 1m, which Consul would silently make of it, or 0 for never")
	}
	return cmp.Or(c.checkNames(), c.checkRegistration())
}

func (c *serverConfig) checkNames() error {
	for i, name := range c.names {
		if !serviceName.MatchString(name) {
			return fmt.Errorf("meshlite: service name %q: write up to 63 letters, digits and hyphens, as DNS allows", name)
		}
		if slices.Contains(c.names[:i], name) {
			return optionError("WithServiceNames", name, "it is given twice: leave one out")
		}
	}
	return nil
}

func (c *serverConfig) checkAddresses() error {
	if c.port != "" && c.listen != "" {
		return optionError("WithPort", c.port, "WithListenAddress tells the port too: leave one of them out")
	}
	if _, err := strconv.ParseUint(c.port, 10, 16); c.port != "" && err != nil {
		return optionError("WithPort", c.port, "write 0 to 65535, or nothing for a free port")
	}
	if c.metrics != metricsOff {
		if err := checkAddress("WithMetricsAddress", c.metrics, false); err != nil {
			return err
		}
	}
	advertised := c.advertised
	if _, _, err := net.SplitHostPort(advertised); advertised != "" && err != nil {
		advertised = net.JoinHostPort(strings.Trim(advertised, "[]"), "1") // a host alone
	}
	return cmp.Or(
		checkAddress("WithListenAddress", c.listen, false),
		checkAddress("WithAdvertisedAddress", advertised, true),
		checkAddress("WithHealthCheckAddress", c.check, true))
}

// checkAddress wants host:port, and both of them where somebody is to dial it.
func checkAddress(option, address string, dialed bool) error {
	if address == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || dialed && (host == "" || n == 0) {
		return optionError(option, address, "write host:port")
	}
	return nil
}

// optionError names an option, the value that is wrong with it and what to write
// instead.
func optionError(option, value, fix string) error {
	return fmt.Errorf("meshlite: %s %q: %s", option, value, fix)
}
