package consultest

import (
	"context"
	"crypto/sha256"
	"fmt"
)

// Option configures a Server.
type Option func(*config)

// Probe finds out the state of what a check points at. It returns one of the
// Health constants and the output to store with it, and obeys ctx, which ends
// at the check's timeout.
type Probe func(ctx context.Context, check Check) (status, output string)

type config struct {
	nodeName, nodeAddress, nodeID string
	datacenter                    string
	aclEnabled                    bool
	managementToken               string
	otherTokens                   map[string]bool
	probe                         Probe
	maxConnections                int
}

// WithNode sets the name and the address of the agent's node.
// Without it they are "consultest" and 127.0.0.1.
func WithNode(name, address string) Option {
	return func(c *config) { c.nodeName, c.nodeAddress = name, address }
}

// WithDatacenter sets the datacenter of the agent. Without it it is dc1.
// Asking for another one that was not joined with [Server.Join] answers "No path
// to datacenter".
func WithDatacenter(name string) Option {
	return func(c *config) { c.datacenter = name }
}

// WithACL turns on access control with Consul's default policy deny. The
// management token may do everything. The others are known but may do nothing,
// like a token without policies: writes answer 403, lists come back empty with
// X-Consul-Results-Filtered-By-ACLs. A request with no token is as powerless,
// but is not told that anything was filtered; an unknown token always answers 403.
// https://developer.hashicorp.com/consul/api-docs/api-structure#results-filtered-by-acls
func WithACL(managementToken string, powerless ...string) Option {
	return func(c *config) {
		c.aclEnabled, c.managementToken = true, managementToken
		c.otherTokens = make(map[string]bool)
		for _, token := range powerless {
			c.otherTokens[token] = true
		}
	}
}

// WithProbe replaces the network in gRPC, HTTP and TCP checks, for tests under
// virtual time and for tests that decide the state themselves.
func WithProbe(probe Probe) Option {
	return func(c *config) { c.probe = probe }
}

// WithMaxConnections limits the connections that one client address may have open
// to the listeners, as Consul's http_max_conns_per_client does, whose default is
// 200: further ones are answered 429 and closed. Without it there is no limit.
func WithMaxConnections(n int) Option {
	return func(c *config) { c.maxConnections = n }
}

func newConfig(opts []Option) config {
	c := config{nodeName: "consultest", nodeAddress: "127.0.0.1", datacenter: "dc1", probe: probeNetwork}
	for _, opt := range opts {
		opt(&c)
	}
	c.nodeID = uuidOf("node " + c.nodeName)
	return c
}

// uuidOf makes an identifier that is the same in every run, so that answers are too.
func uuidOf(seed string) string {
	sum := sha256.Sum256([]byte(seed))
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}
