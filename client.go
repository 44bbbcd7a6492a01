package meshlite

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"
	grpcresolver "google.golang.org/grpc/resolver"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	_ "github.com/meshlite-go/meshlite/balancer/peakewma"   // registers itself
	_ "github.com/meshlite-go/meshlite/balancer/roundrobin" // registers itself
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/deadline"
	"github.com/meshlite-go/meshlite/interceptors/explained"
	"github.com/meshlite-go/meshlite/interceptors/logging"
	"github.com/meshlite-go/meshlite/interceptors/metrics"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/interceptors/recovery"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	"github.com/meshlite-go/meshlite/interceptors/routing"
	"github.com/meshlite-go/meshlite/internal/callstream"
	"github.com/meshlite-go/meshlite/resolver"
)

// NewClient makes a channel to target, which is
//
//	consul://[agent-host:port]/service[?tag=...&dc=...&near=...&filter=...&consistency=...&policy=...]
//
// or any other target of gRPC, such as dns:///host:port. tag and dc repeat; the
// order of dc is the order of failover; near is a node to sort by for policies that
// keep the order; filter is an expression of Consul's; consistency is stale,
// consistent or cached; policy is as in [WithBalancer]. It connects with the first call. What is
// wrong with the target or an option is an error now, not then. Close the channel
// to end its watch.
func NewClient(target string, opts ...ClientOption) (*grpc.ClientConn, error) {
	c := clientConfig{}
	for _, o := range opts {
		o.applyToClient(&c)
	}
	if err := c.finish(); err != nil {
		return nil, err
	}
	parsed, err := c.parseTarget(target)
	if err != nil {
		return nil, err
	}
	serviceConfig, err := c.fullServiceConfig(parsed.Policy)
	if err != nil {
		return nil, err
	}
	streams := c.sharedStreams()
	options := c.grpcOptions(streams.ServiceConfig(serviceConfig))
	scope, ours := "", parsed.Service != ""
	explaining := &channel{target: target, service: parsed.Service}
	if ours {
		if err := c.findDirectory(); err != nil {
			return nil, err
		}
		if err := c.addRouter(); err != nil {
			return nil, err
		}
		site := c.runtime.site(c.directory)
		scope = site.scope
		options = append(options, grpc.WithNoProxy(), grpc.WithResolvers(streams.Resolvers(explaining)))
		explaining.Builder = site.builder.With(c.resolverOptions(serviceConfig, c.router)...)
	}
	if err := c.addMirror(parsed, resolver.Redact(target), serviceConfig); err != nil {
		return nil, err
	}
	//lint:ignore SA1019 it is where gRPC itself looks for a name that credentials pin
	if name := c.creds.Info().ServerName; name != "" {
		scope += "#" + name // another channel's answers are of instances that proved another name
	}
	if len(c.dialOptions) > 0 {
		scope = c.runtime.newScope() // a dialer or an authority may lead elsewhere than the target says
	}
	c.shown = target // that of Consul was parsed, and has no secret
	if !ours {
		c.shown = resolver.Redact(target)
	}
	chain, err := c.chain(scope)
	if err != nil {
		return nil, err
	}
	options = append(options, c.dialOptions...)
	conn, err := grpc.NewClient(target, append(options, streams.Inside(chain)...)...)
	switch {
	case err != nil && c.shown != target:
		return nil, fmt.Errorf("meshlite: target %q is refused by gRPC, for reasons that may repeat what is hidden here", c.shown)
	case err != nil:
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	c.runtime.caches.Add(c.cache, c.shown)
	c.runtime.mutual.Add(c.identity())
	c.runtime.routers.Add(c.router)
	c.runtime.mirrors.Add(c.mirror)
	if ours {
		explaining.mirror = c.mirror
		explaining.policies, explaining.router, explaining.limiter, explaining.off = c.policies, c.router, c.limiter, c.off
		explaining.identity = c.identity()
		explaining.retry, explaining.cache = c.retry, cmp.Or(c.cache, c.runtime.caches.Own()).In(scope)
		c.runtime.channels.Add(explaining)
	}
	c.runtime.limits.AddChannel(c.limiter, c.shown)
	return conn, nil
}

// parseTarget returns the parts of a consul target, and the zero value for others. It refuses
// what gRPC would take for the name of a host, unless a dial option may have brought a
// resolver for it.
func (c *clientConfig) parseTarget(target string) (parsed resolver.Target, err error) {
	scheme, _, found := strings.Cut(target, "://")
	known := scheme == resolver.Scheme || grpcresolver.Get(scheme) != nil || len(c.dialOptions) > 0
	if target == "" || found && !known {
		return parsed, fmt.Errorf("meshlite: target %q: write consul:///service, dns:///host:port or another registered scheme of gRPC", resolver.Redact(target))
	}
	if scheme != resolver.Scheme && !strings.HasPrefix(target, "unix") && strings.Contains(target, "@") && len(c.dialOptions) == 0 {
		return parsed, fmt.Errorf("meshlite: target %q has user information: leave it out, credentials belong in WithTransportCredentials or WithDialOptions", resolver.Redact(target))
	}
	if strings.HasPrefix(target, resolver.Scheme+":") {
		if parsed, err = resolver.ParseTarget(target); err != nil {
			return parsed, fmt.Errorf("meshlite: %w", err)
		}
	}
	return parsed, nil
}

// grpcOptions are those of gRPC of the channel, and of those of its mirrors.
func (c *clientConfig) grpcOptions(serviceConfig string) []grpc.DialOption {
	return append([]grpc.DialOption{
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithTransportCredentials(c.creds),
		grpc.WithMaxHeaderListSize(maxHeaderListSize),
		clientKeepalive(),
	}, c.runtime.dialer()...)
}

func (c *clientConfig) resolverOptions(serviceConfig string, router *routes.Router) []resolver.Option {
	ours := []resolver.Option{resolver.WithLogger(c.log), resolver.WithServiceConfig(func(string) string { return serviceConfig }), resolver.WithLocality(c.region, c.zone)}
	return append(append(ours, c.resolver...), resolver.WithRoutes(router))
}

// sharedStreams carries the calls of the channel, and is nil if each has a stream of its own.
func (c *clientConfig) sharedStreams() *callstream.Client {
	if c.callStreams {
		return &callstream.Client{}
	}
	return nil
}

// isOff reports whether the environment turns a concern off.
func (c *clientConfig) isOff(stage interceptors.Stage) bool {
	return slices.ContainsFunc(c.off, func(k kill) bool { return k.stage == stage })
}

// addRouter has the channel go by the discovery chain of its service, unless that is turned off.
func (c *clientConfig) addRouter() (err error) {
	if c.isOff(interceptors.Routing) {
		return nil
	}
	if c.router, err = routes.NewRouter(routes.WithLogger(c.log)); err != nil {
		return fmt.Errorf("meshlite: %w", err)
	}
	return nil
}

// chain joins the concerns of a client.
func (c *clientConfig) chain(scope string) (*interceptors.Chained, error) {
	concerns, err := c.concerns(scope)
	if err != nil {
		return nil, err
	}
	c.limiter, c.policies = concerns.limiter, concerns.policies // for the pages of the runtime
	again, err := retry.New(retry.WithObserver(concerns.metrics))
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	c.retry = again
	c.runtime.retries.Add(again)
	explains, err := explained.New(explained.WithTarget(c.shown), explained.WithPolicy(c.policyOf))
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	own := []interceptors.Concern{concerns.limiter, again, c.mirror, explains}
	if c.router != nil {
		routed, err := routing.New(c.router)
		if err != nil {
			return nil, fmt.Errorf("meshlite: %w", err)
		}
		own = append(own, routed)
	}
	return concerns.chain(interceptors.Client, own...)
}

// policyOf is the balancing policy of attempts that went a way.
func (c *clientConfig) policyOf(at *attempt.Route) string {
	policy := ""
	if c.router != nil {
		policy = c.router.PolicyOf(at)
	}
	return cmp.Or(policy, c.policyName)
}

// concerns are those that both sides have.
type concerns struct {
	policies *interceptors.Policies
	metrics  *metrics.Metrics
	limiter  *ratelimit.Limiter
	others   []interceptors.Concern
	off      []kill
}

func (c *config) concerns(scope string) (*concerns, error) {
	policies, err := interceptors.NewPolicies(c.policy, interceptors.WithContracts(c.contracts))
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	var trace func(context.Context) (string, bool)
	if c.tracing != nil {
		trace = c.tracing.Exemplar
	}
	measured := c.runtime.metrics.WithExemplarFromContext(trace)
	logged, err := logging.New(logging.WithLogger(c.log), logging.WithCallers(c.runtime.callers), logging.WithTraceFromContext(trace), logging.WithDeadlineWarnings())
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	recovered, err := recovery.New(recovery.WithLogger(c.log), recovery.WithObserver(measured))
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	bounded, err := deadline.New(deadline.WithObserver(measured))
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	limiter := c.limiter
	if limiter == nil {
		if limiter, err = ratelimit.New(ratelimit.WithLogger(c.log), ratelimit.WithCallers(c.runtime.callers), ratelimit.WithObserver(measured)); err != nil {
			return nil, fmt.Errorf("meshlite: %w", err)
		}
	}
	others := append([]interceptors.Concern{logged, recovered, bounded, cmp.Or(c.cache, c.runtime.caches.Own()).In(scope)}, c.own...)
	if c.tracing != nil {
		others = append(others, c.tracing)
	}
	return &concerns{policies, measured, limiter, others, c.off}, nil
}

// chain joins them with those that one side has in its own way.
func (c *concerns) chain(side interceptors.Side, more ...interceptors.Concern) (*interceptors.Chained, error) {
	chain, err := interceptors.Chain(side, c.policies, without(c.off, append(append(c.others, c.metrics), more...))...)
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	return chain, nil
}
