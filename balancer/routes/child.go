package routes

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/serviceconfig"

	"github.com/meshlite-go/meshlite/balancer/hash"
	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/balancer/random"
	"github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// child is a policy of gRPC for the endpoints of one target, with its config.
type child struct {
	builder balancer.Builder
	config  serviceconfig.LoadBalancingConfig
	text    string // of the config
}

// same reports whether both are one policy with one config.
func (c child) same(other child) bool {
	return c.builder.Name() == other.builder.Name() && c.text == other.text
}

func newChild(name string, text []byte) (child, error) {
	c := child{builder: balancer.Get(name), text: string(text)}
	if c.builder == nil {
		return child{}, fmt.Errorf("policy %q is not registered: import its package", name)
	}
	var err error
	if parser, ok := c.builder.(balancer.ConfigParser); ok {
		c.config, err = parser.ParseConfig(text)
	}
	return c, err
}

// config is the policy's part of a service config.
type config struct {
	serviceconfig.LoadBalancingConfig
	child
}

func parseConfig(text json.RawMessage) (*config, error) {
	var fields struct {
		Child []map[string]json.RawMessage `json:"child"`
	}
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, fmt.Errorf("%s: %w", Name, err)
	}
	var names []string
	for _, policy := range fields.Child { // the first one that is registered, as in gRPC
		if len(policy) != 1 {
			return nil, fmt.Errorf("%s: child %v: write one policy in each element", Name, policy)
		}
		for name, text := range policy {
			names = append(names, name)
			if balancer.Get(name) == nil || name == Name {
				continue
			}
			c, err := newChild(name, text)
			if err != nil {
				return nil, fmt.Errorf("%s: child: %w", Name, err)
			}
			return &config{child: c}, nil
		}
	}
	return nil, fmt.Errorf(`%s: child %q: no such policy is registered: write [{"meshlite_least_request": {}}]`, Name, names)
}

// policiesOf are the policies of targets, by ID: those of the first arm that reaches them.
func policiesOf(chain *route.Chain) map[string]*route.LoadBalancer {
	policies := map[string]*route.LoadBalancer{}
	if chain == nil {
		return policies
	}
	for _, r := range chain.Routes {
		for _, a := range r.Arms {
			for _, id := range slices.Concat([]string{a.Target}, a.Failover) {
				if _, ok := policies[id]; !ok {
					policies[id] = a.LoadBalancer
				}
			}
		}
	}
	return policies
}

// ownPrefix begins the names of policies of this module.
const ownPrefix = "meshlite_"

// of is the policy of a target. One of a service-resolver has the settings of the channel's own
// policy: slow start, ejection, zone.
func (c *config) of(lb *route.LoadBalancer) (child, error) {
	if lb == nil || lb.Policy == "" {
		return c.child, nil
	}
	fields := map[string]any{}
	if strings.HasPrefix(c.builder.Name(), ownPrefix) {
		var own map[string]json.RawMessage
		if err := json.Unmarshal([]byte(c.text), &own); err != nil {
			return child{}, err
		}
		for _, name := range []string{"slowStart", "ejection", "zone"} {
			if text, ok := own[name]; ok {
				fields[name] = text
			}
		}
	}
	name := policyName(lb)
	switch {
	case name == "":
		return child{}, fmt.Errorf("policy %q of a service-resolver: write round_robin, random, least_request, ring_hash or maglev", lb.Policy)
	case name == leastrequest.Name && lb.ChoiceCount > 0: // of gRFC A48; of few endpoints all are compared, which is better
		fields["choiceCount"] = min(max(lb.ChoiceCount, 2), 10)
	case name == hash.Name && lb.HashFrom != "": // a request of HTTP has the value, not metadata
		fields["metadataKey"] = "value"
	case name == hash.Name:
		fields["metadataKey"] = lb.HashKey
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return child{}, err
	}
	return newChild(name, text)
}

// policyName is the name of the policy that a service-resolver asks for, "" if there is none.
func policyName(lb *route.LoadBalancer) string {
	switch lb.Policy {
	case "round_robin":
		return roundrobin.Name
	case "random":
		return random.Name
	case "least_request":
		return leastrequest.Name
	case "ring_hash", "maglev": // both approximate what the policy does
		if lb.HashKey == "" && lb.HashFrom == "" {
			return random.Name // as Envoy does without a hash
		}
		return hash.Name
	default:
		return ""
	}
}
