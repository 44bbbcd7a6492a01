package meshlite

import (
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/mirror"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	"github.com/meshlite-go/meshlite/resolver"
)

type clientConfig struct {
	config
	balancer      string
	settings      []balancer.Settings // of balancer, one at most
	serviceConfig string
	resolver      []resolver.Option
	router        *routes.Router // of the channel; nil without routes
	mirror        *mirror.Mirror
	dialOptions   []grpc.DialOption
	policies      *interceptors.Policies // of the channel, and retry, for what explains its calls
	retry         *retry.Retry
	shown         string // the target, without secrets
	policyName    string // of the balancer; "" where a service config names it
}

// WithBalancer sets the balancing policy where neither the target nor a service config
// names one: "round_robin", "least_request", "peak_ewma", or "grpc:NAME" for one that is
// registered with gRPC. One value of settings may follow for the policies of this module:
//
//	settings := balancer.DefaultSettings()
//	settings.SlowStart.Window = balancer.Duration(30 * time.Second)
//	meshlite.WithBalancer("peak_ewma", settings)
//
// [WithServiceConfig] can set the fields that one policy alone has, too. Default:
// least_request.
func WithBalancer(policy string, settings ...balancer.Settings) ClientOption {
	return clientOption(func(c *clientConfig) { c.balancer, c.settings = policy, settings })
}

// WithServiceConfig gives the channel a service config of gRPC, as JSON. A policy
// in the target replaces the policy in it.
func WithServiceConfig(json string) ClientOption {
	return clientOption(func(c *clientConfig) { c.serviceConfig = json })
}

// WithResolver adds options of the resolver of consul targets, which win over ours:
// [resolver.WithSubset], [resolver.WithSnapshots], [resolver.WithWarningInstances],
// [resolver.WithPanicThreshold], [resolver.WithMaintenance] and the like.
func WithResolver(options ...resolver.Option) ClientOption {
	return clientOption(func(c *clientConfig) { c.resolver = append(c.resolver, options...) })
}

// WithDialOptions passes options on to grpc.NewClient. They win over ours, which bound
// the header and the trailer of a response: grpc.WithMaxHeaderListSize 16 KiB. A call
// fails if its response has more, details of a status included. Also ours is
// grpc.WithKeepaliveParams: on Linux a connection on which data is not acknowledged for 20 s
// is closed.
// Interceptors among them run outside of all concerns, the cache and the metrics
// too; those of [WithInterceptors] have their place inside. The channels to which a policy
// mirrors calls have these options, too.
func WithDialOptions(options ...grpc.DialOption) ClientOption {
	return clientOption(func(c *clientConfig) { c.dialOptions = append(c.dialOptions, options...) })
}

// WithContracts adds contracts that the program reads while it runs, for a channel without
// generated code: their policies apply as those of linked contracts do, and replace these
// where both have a method. A change of contracts takes effect with the next call.
func WithContracts(contracts *interceptors.Contracts) ClientOption {
	return clientOption(func(c *clientConfig) { c.contracts = contracts })
}

// finish checks what only channels have.
func (c *clientConfig) finish() error {
	if err := c.config.finish(); err != nil {
		return err
	}
	if err := resolver.Validate(c.resolver...); err != nil {
		return fmt.Errorf("meshlite: WithResolver: %w", err)
	}
	return nil
}

// fullServiceConfig returns the user's service config with a balancing policy: that of the
// target, else the config's own, else that of WithBalancer.
func (c *clientConfig) fullServiceConfig(ofTarget string) (string, error) {
	fields := map[string]any{}
	if c.serviceConfig != "" {
		if err := json.Unmarshal([]byte(c.serviceConfig), &fields); err != nil || fields == nil {
			return "", optionError("WithServiceConfig", c.serviceConfig, "write a JSON object as in gRPC's service_config.md")
		}
	}
	policy, config, err := c.balancing()
	if err != nil {
		return "", fmt.Errorf("meshlite: WithBalancer: %w", err)
	}
	_, named := fields["loadBalancingPolicy"]
	_, configured := fields["loadBalancingConfig"]
	if (named || configured) && len(c.settings) > 0 {
		return "", optionError("WithServiceConfig", c.serviceConfig, "its policy does not use the settings of WithBalancer: leave out one of the two")
	}
	if ofTarget != "" {
		delete(fields, "loadBalancingPolicy")
		policy, config = ofTarget, struct{}{}
	}
	if ofTarget != "" || !named && !configured {
		c.policyName = policy
		fields["loadBalancingConfig"] = []any{map[string]any{policy: config}}
	}
	if err := withoutParts(c.off, fields); err != nil {
		return "", optionError("WithServiceConfig", c.serviceConfig, err.Error())
	}
	text, err := json.Marshal(fields)
	return string(text), err
}

// balancing is the policy of WithBalancer and its part of a service config.
func (c *clientConfig) balancing() (policy string, config any, err error) {
	policy = leastrequest.Name
	if c.balancer != "" {
		if policy, err = balancer.PolicyName(c.balancer); err != nil {
			return "", nil, err
		}
	}
	switch {
	case len(c.settings) == 0:
		return policy, struct{}{}, nil
	case len(c.settings) > 1:
		return "", nil, fmt.Errorf("%d settings: give one at most", len(c.settings))
	case strings.HasPrefix(c.balancer, "grpc:"):
		return "", nil, fmt.Errorf("policy %q has no use for settings of this module's policies: leave them out", c.balancer)
	}
	if err := c.settings[0].Validate(); err != nil {
		return "", nil, fmt.Errorf("%w: begin with balancer.DefaultSettings()", err)
	}
	return policy, c.settings[0], nil
}
