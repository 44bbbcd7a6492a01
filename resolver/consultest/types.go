package consultest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"time"
)

// Option configures a Server.
type Option func(*config)

// Probe runs a check. It returns one of the Health constants and the output to store with it, and obeys ctx, which ends
// at the check's timeout.
type Probe func(ctx context.Context, check Check) (status, output string)

type config struct {
	nodeName, nodeAddress, nodeID string
	datacenter                    string
	aclEnabled                    bool
	managementToken               string
	otherTokens                   map[string]bool
	intentionPolicy               string
	probe                         Probe
	maxConnections                int
	leafTTL                       time.Duration // 0 is Consul's default
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

// WithDefaultIntentionPolicy sets what decides where no intention does: "allow" or "deny".
// Without it that is the default policy of ACLs: deny with [WithACL], else allow.
func WithDefaultIntentionPolicy(policy string) Option {
	return func(c *config) { c.intentionPolicy = policy }
}

// WithACL turns on access control with Consul's default policy deny. The
// management token may do everything. The others exist but may do nothing,
// as a token without policies: writes answer 403, lists are empty and have
// X-Consul-Results-Filtered-By-ACLs. A request without a token may do as little, and
// its lists lack that header; an unknown token always gets 403.
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

// WithDialer connects gRPC, HTTP and TCP checks by dial instead of TCP, for a network in
// memory, whose addresses dial receives.
func WithDialer(dial func(ctx context.Context, network, address string) (net.Conn, error)) Option {
	return func(c *config) { c.probe = dialer(dial).probe }
}

// WithMaxConnections limits the connections that one client address may have open
// to the listeners, as Consul's http_max_conns_per_client does, whose default is
// 200: further ones are answered 429 and closed. Without it there is no limit.
func WithMaxConnections(n int) Option {
	return func(c *config) { c.maxConnections = n }
}

func newConfig(opts []Option) config {
	c := config{nodeName: "consultest", nodeAddress: "127.0.0.1", datacenter: "dc1", probe: dialer((&net.Dialer{}).DialContext).probe}
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

// The states of a check and, by its worst check, of a service.
const (
	HealthPassing  = "passing"
	HealthWarning  = "warning"
	HealthCritical = "critical"
)

// Service is one instance of a service as it is registered.
// The fields carry Consul's names and meanings:
// https://developer.hashicorp.com/consul/api-docs/agent/service#register-service
type Service struct {
	ID                string // unique in the agent; Name if empty
	Name              string // required
	Address           string // empty: clients use the address of the node
	Port              int
	Tags              []string
	Meta              map[string]string
	TaggedAddresses   map[string]ServiceAddress
	Weights           Weights // the zero value means 1 and 1
	EnableTagOverride bool
	Locality          *Locality
	ConnectNative     bool
	Checks            []Check // a service without checks is passing
}

// ServiceAddress is one of the tagged addresses of a service.
type ServiceAddress struct {
	Address string
	Port    int
}

// Weights are the shares of traffic of an instance by its state.
type Weights struct {
	Passing int // 1 to 65535
	Warning int // 0 to 65535
}

// Locality is where an instance runs.
type Locality struct {
	Region string
	Zone   string
}

// Check says how the agent checks a service. Exactly one of TTL,
// GRPC, HTTP and TCP is set; the last three need Interval.
// https://developer.hashicorp.com/consul/api-docs/agent/check#register-check
type Check struct {
	CheckID string // "service:<service id>", with ":<n>" if there are several, if empty
	Name    string
	Notes   string
	Status  string // the state until the first result: critical if empty

	TTL      time.Duration // critical when not renewed for that long
	Interval time.Duration // between two probes; at least one second
	Timeout  time.Duration // of one probe; ten seconds if zero

	GRPC       string // host:port, or host:port/service
	GRPCUseTLS bool

	HTTP             string // URL: 2xx is passing, 429 is warning, the rest critical
	Method           string // GET if empty
	Header           map[string][]string
	Body             string
	DisableRedirects bool

	TCP       string // host:port
	TCPUseTLS bool

	TLSServerName string
	TLSSkipVerify bool

	SuccessBeforePassing   int // probes in a row before the state improves
	FailuresBeforeWarning  int
	FailuresBeforeCritical int

	// DeregisterCriticalServiceAfter removes the service once the check has been
	// critical for longer. Below one minute it is raised to one minute, and it is
	// looked at every 30 seconds, both as Consul does.
	DeregisterCriticalServiceAfter time.Duration
}

// Query is one request for the health of a service.
type Query struct {
	Time     time.Time
	Service  string
	Index    uint64        // zero: not a blocking query
	Wait     time.Duration // as requested; zero is the agent's default
	RawQuery string
	HasToken bool // whichever it was
	Refused  bool // made through Transport while the agent was unreachable
}

// clone copies what the caller could change afterwards.
func (s Service) clone() Service {
	s.Tags = append([]string(nil), s.Tags...)
	s.Meta = copyMap(s.Meta)
	s.TaggedAddresses = copyMap(s.TaggedAddresses)
	s.Checks = append([]Check(nil), s.Checks...)
	if s.Locality != nil {
		locality := *s.Locality
		s.Locality = &locality
	}
	return s
}

func copyMap[V any](from map[string]V) map[string]V {
	if from == nil {
		return nil
	}
	to := make(map[string]V, len(from))
	for k, v := range from {
		to[k] = v
	}
	return to
}
