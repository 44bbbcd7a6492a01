package meshlite

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	grpcresolver "google.golang.org/grpc/resolver"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	_ "github.com/meshlite-go/meshlite/balancer/peakewma"   // known by name
	_ "github.com/meshlite-go/meshlite/balancer/roundrobin" // known by name
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/deadline"
	"github.com/meshlite-go/meshlite/interceptors/logging"
	"github.com/meshlite-go/meshlite/interceptors/metrics"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/interceptors/recovery"
	"github.com/meshlite-go/meshlite/interceptors/retry"
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
	serviceConfig, err := c.fullServiceConfig()
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithTransportCredentials(c.creds),
	}
	scope := ""
	if err := c.checkTarget(target); err != nil {
		return nil, err
	}
	if strings.HasPrefix(target, resolver.Scheme+":") {
		if _, err := resolver.ParseTarget(target); err != nil {
			return nil, fmt.Errorf("meshlite: %w", err)
		}
		if err := c.findConsul(); err != nil {
			return nil, err
		}
		site := c.runtime.site(c.directory)
		scope = site.scope
		options = append(options, grpc.WithNoProxy(), grpc.WithResolvers(site.builder.With(c.resolverOptions(serviceConfig)...)))
	}
	//lint:ignore SA1019 it is where gRPC itself looks for a name that credentials pin
	if name := c.creds.Info().ServerName; name != "" {
		scope += "#" + name // another channel's answers are of instances that proved another name
	}
	if len(c.dialOptions) > 0 {
		scope = c.runtime.newScope() // a dialer or an authority may lead elsewhere than the target says
	}
	chain, err := c.chain(scope)
	if err != nil {
		return nil, err
	}
	options = append(options, c.dialOptions...)
	conn, err := grpc.NewClient(target, append(options, chain.DialOptions()...)...)
	shown := target // that of Consul was parsed, and has no secret
	if !strings.HasPrefix(target, resolver.Scheme+":") {
		shown = resolver.Redact(target)
	}
	switch {
	case err != nil && shown != target:
		return nil, fmt.Errorf("meshlite: target %q is refused by gRPC, for reasons that may repeat what is hidden here", shown)
	case err != nil:
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	c.runtime.caches.Add(c.cache, shown)
	c.runtime.limits.AddChannel(c.limiter, shown)
	return conn, nil
}

// checkTarget refuses what gRPC would take for the name of a host, unless a dial
// option may have brought a resolver for it.
func (c *clientConfig) checkTarget(target string) error {
	scheme, _, found := strings.Cut(target, "://")
	known := scheme == resolver.Scheme || grpcresolver.Get(scheme) != nil || len(c.dialOptions) > 0
	if target == "" || found && !known {
		return fmt.Errorf("meshlite: target %q: write consul:///service, dns:///host:port or another scheme that gRPC knows", resolver.Redact(target))
	}
	if scheme != resolver.Scheme && !strings.HasPrefix(target, "unix") && strings.Contains(target, "@") && len(c.dialOptions) == 0 {
		return fmt.Errorf("meshlite: target %q has user information: leave it out, credentials belong in WithTransportCredentials or WithDialOptions", resolver.Redact(target))
	}
	return nil
}

func (c *clientConfig) resolverOptions(serviceConfig string) []resolver.Option {
	return append(c.resolver, resolver.WithLogger(c.log), resolver.WithServiceConfig(serviceConfig), resolver.WithLocality(c.region, c.zone))
}

// chain puts the concerns of a client in order.
func (c *clientConfig) chain(scope string) (*interceptors.Chained, error) {
	concerns, err := c.concerns(scope)
	if err != nil {
		return nil, err
	}
	c.limiter = concerns.limiter // which the runtime tells of
	again, err := retry.New(retry.WithObserver(concerns.metrics))
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	c.runtime.retries.Add(again)
	inner := []interceptors.Concern{concerns.deadline, concerns.cache, again, concerns.limiter}
	return concerns.join(interceptors.Client, inner)
}

// fullServiceConfig is the user's service config with a policy in it: the user's
// own, or the one of the option, or least request.
func (c *clientConfig) fullServiceConfig() (string, error) {
	fields := map[string]any{}
	if c.serviceConfig != "" {
		if err := json.Unmarshal([]byte(c.serviceConfig), &fields); err != nil || fields == nil {
			return "", optionError("WithServiceConfig", c.serviceConfig, "write a JSON object as in gRPC's service_config.md")
		}
	}
	policy := leastrequest.Name
	if c.balancer != "" {
		name, err := balancer.PolicyName(c.balancer)
		if err != nil {
			return "", fmt.Errorf("meshlite: WithBalancer: %w", err)
		}
		policy = name
	}
	_, named := fields["loadBalancingPolicy"]
	if _, configured := fields["loadBalancingConfig"]; !configured && !named {
		fields["loadBalancingConfig"] = []any{map[string]any{policy: struct{}{}}}
	}
	text, err := json.Marshal(fields)
	return string(text), err
}

// concerns are those that both sides have.
type concerns struct {
	policies *interceptors.Policies
	metrics  *metrics.Metrics
	outer    []interceptors.Concern
	own      *interceptors.Interceptors
	deadline *deadline.Deadline
	cache    *cache.Scoped
	limiter  *ratelimit.Limiter
}

func (c *config) concerns(scope string) (*concerns, error) {
	policies, err := interceptors.NewPolicies(c.policy)
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	measured := c.runtime.metrics.WithExemplarFromContext(c.trace)
	logged, err := logging.New(logging.WithLogger(c.log), logging.WithTraceFromContext(c.trace))
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
		if limiter, err = ratelimit.New(ratelimit.WithLogger(c.log), ratelimit.WithObserver(measured)); err != nil {
			return nil, fmt.Errorf("meshlite: %w", err)
		}
	}
	outer := []interceptors.Concern{measured, logged, recovered}
	if c.tracing != nil {
		outer = append([]interceptors.Concern{c.tracing}, outer...)
	}
	return &concerns{
		policies: policies,
		metrics:  measured,
		outer:    outer,
		own:      c.own, deadline: bounded, cache: cmp.Or(c.cache, c.runtime.caches.Own()).In(scope), limiter: limiter,
	}, nil
}

// join chains the outer concerns, the user's own and inner. On both sides the
// user's own stand right after what the side puts outermost.
func (c *concerns) join(side interceptors.Side, inner []interceptors.Concern) (*interceptors.Chained, error) {
	all := c.outer
	if c.own != nil {
		all = append(all, c.own)
	}
	chain, err := interceptors.Chain(side, c.policies, append(all, inner...)...)
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	return chain, nil
}
