package meshlite

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// ClientOption changes what [NewClient] makes.
//
// An option that is given again replaces the earlier one, but for those that add:
// WithDialOptions, WithInterceptors, WithRegistration, WithResolver, WithServerOptions.
type ClientOption interface{ applyToClient(*clientConfig) }

// ServerOption changes what [NewServer] makes. It repeats as [ClientOption] does.
type ServerOption interface{ applyToServer(*serverConfig) }

// Option changes either side.
type Option interface {
	ClientOption
	ServerOption
}

// Options are one option, so that both sides can be given the same:
//
//	common := meshlite.Options{meshlite.WithTLS(settings), meshlite.WithLogger(log)}
//	server, err := meshlite.NewServer("catalog", common, meshlite.WithDrain(0, time.Second))
//	conn, err := meshlite.NewClient("consul:///inventory", common)
type Options []Option

func (all Options) applyToClient(c *clientConfig) {
	for _, o := range all {
		o.applyToClient(c)
	}
}

func (all Options) applyToServer(c *serverConfig) {
	for _, o := range all {
		o.applyToServer(c)
	}
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
	contracts *interceptors.Contracts // of a client; nil is none
	region    string
	zone      string
	own       []interceptors.Concern // the user's, and what authorizes
	cache     *cache.Cache
	limiter   *ratelimit.Limiter
	tracing   Tracer
	off       []kill // by the environment

	callStreams bool
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

// WithTLS asks for TLS. On a client, the name that a server must prove is
// settings.ServerName or, when that is empty, the name of the service.
func WithTLS(settings *tls.Config) Option {
	return WithTransportCredentials(credentials.NewTLS(settings))
}

// WithTransportCredentials asks for any transport security of gRPC, such as mutual TLS with
// certificates that say which service each end is: see [ConsulIdentity].
func WithTransportCredentials(creds credentials.TransportCredentials) Option {
	return option(func(c *config) { c.creds = creds })
}

// WithRuntime shares r instead of the process's default runtime.
func WithRuntime(r *Runtime) Option { return option(func(c *config) { c.runtime = r }) }

// WithDirectory uses directory instead of the agent that the environment names. Nil is
// that agent.
func WithDirectory(directory Directory) Option {
	return option(func(c *config) { c.directory = directory })
}

// WithLogger logs to log. Default, and nil: slog.Default(). MESHLITE_LOG_LEVEL replaces the
// level of its handler for the lines of the mesh.
func WithLogger(log *slog.Logger) Option { return option(func(c *config) { c.log = log }) }

// WithLocality sets where the process runs: a region and, within it, a zone, such as
// "eu-west-1" and "eu-west-1a". A server registers it; a client's calls stay in its zone
// while the instances there can carry them. Both empty is MESHLITE_REGION and
// MESHLITE_ZONE, and unknown without these.
func WithLocality(region, zone string) Option {
	return option(func(c *config) { c.region, c.zone = region, zone })
}

// WithPolicy changes the policies that the contracts declare, field by field.
func WithPolicy(policy *policyv1.ServicePolicy) Option {
	return option(func(c *config) { c.policy = policy })
}

// WithInterceptors adds interceptors of the user's own, [interceptors.Interceptors], which run
// in the order given. They see every call that was not refused before and, on a client, calls
// rather than attempts.
//
// On a server it also takes one concern that authorizes calls, such as that of
// [ConsulIntentions]. It runs before everything that an answer could come
// from. Its owner closes it.
func WithInterceptors(own interceptors.Concern) Option {
	return option(func(c *config) { c.own = append(c.own, own) })
}

// WithCache keeps answers in cache instead of the runtime's, for instance because it
// identifies callers in another way. Its owner closes it, and counts its results by an
// observer. The admin page shows it as long as it is in use.
func WithCache(cache *cache.Cache) Option { return option(func(c *config) { c.cache = cache }) }

// WithRateLimit counts in limiter instead of one of this channel or server alone, for
// instance because it has an external store. Its owner counts its verdicts by an observer.
// A server sets the limiter's share of a limit per replica: the server's weight among
// those of the healthy instances in the directory. The admin page shows the limiter as
// long as it is in use.
func WithRateLimit(limiter *ratelimit.Limiter) Option {
	return option(func(c *config) { c.limiter = limiter })
}

// Tracer traces calls, and returns the trace of one for logs and metrics: a
// *tracing.Tracing of package interceptors/tracing.
type Tracer interface {
	interceptors.Concern
	// Exemplar returns the id of the trace of ctx, and whether it is sampled.
	Exemplar(ctx context.Context) (traceID string, sampled bool)
}

// WithTracing traces calls by tracer. The trace ids of sampled calls are attached to the
// latency histograms as exemplars, and written in log lines, so that a slow call leads to
// its trace. Default, and nil: not traced.
func WithTracing(tracer Tracer) Option {
	return option(func(c *config) { c.tracing = tracer })
}

// finish checks what both sides have and sets the defaults.
func (c *config) finish() error {
	switch {
	case c.plaintext && c.creds != nil && !isPlaintext(c.creds):
		return errors.New("meshlite: both WithPlaintext and TLS are given: leave one of them out")
	case c.plaintext:
		c.creds = insecure.NewCredentials()
	case c.creds == nil:
		return errors.New("meshlite: no transport security: give WithTransportCredentials of a ConsulIdentity, WithTLS, or WithPlaintext if the network is trusted")
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	if c.runtime == nil {
		c.runtime = DefaultRuntime()
	}
	if c.directory != nil && !reflect.TypeOf(c.directory).Comparable() {
		return fmt.Errorf("meshlite: WithDirectory: a %T is not comparable: give a pointer", c.directory)
	}
	for _, own := range c.own {
		if own == nil {
			return optionError("WithInterceptors", "nil", "leave the option out")
		}
		if stage := own.Stage(); stage != interceptors.User && stage != interceptors.Authorization {
			return optionError("WithInterceptors", stage.String(), "give interceptors.Interceptors or an *authz.Authorizer: others have options of their own")
		}
	}
	if c.tracing != nil && c.tracing.Stage() != interceptors.Tracing {
		return optionError("WithTracing", c.tracing.Stage().String(), "give a *tracing.Tracing, which tracing.New makes")
	}
	if c.zone != "" && c.region == "" {
		return optionError("WithLocality", c.zone, "Consul takes a zone only within its region: write the region too")
	}
	return c.environment()
}

// isPlaintext reports whether creds are gRPC's own insecure ones. Others may have the same
// name, and send something first.
func isPlaintext(creds credentials.TransportCredentials) bool {
	return reflect.TypeOf(creds) == reflect.TypeOf(insecure.NewCredentials())
}

// identity is nil with other transport security.
func (c *config) identity() *identity.Credentials {
	credentials, _ := c.creds.(*identity.Credentials)
	return credentials
}

// connectionAge is less than what certificates are good for, and 0 without them. Running
// calls go on.
func (c *config) connectionAge() time.Duration {
	if credentials := c.identity(); credentials != nil {
		return credentials.MaxConnectionAge()
	}
	return 0
}

// findDirectory takes the agent that the environment names unless an option has
// named another.
func (c *config) findDirectory() error {
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

// optionError names an option, the value that is wrong with it and what to write
// instead.
func optionError(option, value, fix string) error {
	return fmt.Errorf("meshlite: %s %q: %s", option, value, fix)
}
