package meshlite

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"reflect"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
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
	region    string
	zone      string
	own       *interceptors.Interceptors
	cache     *cache.Cache
	limiter   *ratelimit.Limiter
	tracing   interceptors.Concern
	trace     func(context.Context) (traceID string, sampled bool)
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

// WithLocality tells where the process runs: a region and, within it, a zone, such as
// "eu-west-1" and "eu-west-1a". Of a server, clients learn it through the directory;
// a client's calls stay in its zone while the instances there can carry them. Both
// empty is nowhere, so that variables of the environment can be given as they are.
func WithLocality(region, zone string) Option {
	return option(func(c *config) { c.region, c.zone = region, zone })
}

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
// knows who calls. Its owner closes it, and counts its results by an observer. The admin
// page tells of it as long as it is in use.
func WithCache(cache *cache.Cache) Option { return option(func(c *config) { c.cache = cache }) }

// WithRateLimit counts in limiter instead of one of this channel or server alone, for
// instance because it has a store that replicas share. Its owner counts its verdicts by
// an observer. A server tells it its share of a limit that replicas divide: its weight
// among those of the instances that can be called, as the directory tells. The admin page
// tells of it as long as it is in use.
func WithRateLimit(limiter *ratelimit.Limiter) Option {
	return option(func(c *config) { c.limiter = limiter })
}

// WithTracing traces calls: a *tracing.Tracing of package interceptors/tracing, which
// only who wants it compiles. Default, and nil: not traced.
func WithTracing(tracing interceptors.Concern) Option {
	return option(func(c *config) { c.tracing = tracing })
}

// WithExemplars hangs the trace id of calls that are sampled on the histograms of latency,
// and tells it in their log lines, so that a slow call leads to its trace. Trace is called
// once to three times a call, when it ends, with the context that the call came with: what begins the trace has to stand
// outside of the metrics, as a stats handler does. Default: that of [WithTracing].
func WithExemplars(trace func(context.Context) (traceID string, sampled bool)) Option {
	return option(func(c *config) { c.trace = trace })
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
	if traced, ok := c.tracing.(interface {
		Exemplar(context.Context) (string, bool)
	}); ok && c.trace == nil {
		c.trace = traced.Exemplar
	}
	if c.runtime == nil {
		c.runtime = DefaultRuntime()
	}
	if c.runtime.err != nil {
		return c.runtime.err
	}
	if c.directory != nil && !reflect.TypeOf(c.directory).Comparable() {
		return fmt.Errorf("meshlite: WithConsul: a %T cannot be told from another: give a pointer", c.directory)
	}
	if c.tracing != nil && c.tracing.Stage() != interceptors.Tracing {
		return optionError("WithTracing", c.tracing.Stage().String(), "give a *tracing.Tracing, which tracing.New makes")
	}
	if c.zone != "" && c.region == "" {
		return optionError("WithLocality", c.zone, "Consul takes a zone only within its region: write the region too")
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

// optionError names an option, the value that is wrong with it and what to write
// instead.
func optionError(option, value, fix string) error {
	return fmt.Errorf("meshlite: %s %q: %s", option, value, fix)
}
