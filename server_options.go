package meshlite

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

const (
	// minTTL lets the health be told three times in each TTL, at most once a second.
	minTTL = 3 * time.Second
	// unknownAddress stands for those that are known only when the server listens.
	unknownAddress = "localhost:1"
)

type serverConfig struct {
	config
	listen, advertised, check, metrics string
	selfCheck                          string
	port                               string
	metricsHosts                       []string
	names                              []string
	tags                               []string
	metadata                           map[string]string
	weight, warningWeight              uint32
	drain, stopTimeout                 time.Duration
	deregisterAfter, ttl               time.Duration
	ttlGiven                           bool
	checkName                          string  // to verify in Consul's check
	checkSkipVerify                    bool    // in Consul's check
	healthListener                     *string // its address
	reflection, channelz               bool
	concurrency                        *concurrency.Limiter
	policies                           *interceptors.Policies
	share                              *share
	serverOptions                      []grpc.ServerOption
	ownPerConnection, ownPerServer     int
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

// WithHealthCheckAddress is where Consul checks the health, "host:port", which the server
// must reach too, to prove it. Default: the advertised address, or that of
// WithHealthListener.
func WithHealthCheckAddress(address string) ServerOption {
	return serverOption(func(c *serverConfig) { c.check = address })
}

// WithSelfCheckAddress is where the server checks that it is reached before it registers,
// "host:port", for networks where it cannot reach itself at the address it advertises: a
// port mapping without hairpin NAT. "off" leaves that to Consul's check. Default: the
// advertised address.
func WithSelfCheckAddress(address string) ServerOption {
	return serverOption(func(c *serverConfig) { c.selfCheck = address })
}

// WithHealthCheckServerName makes Consul's check of the health verify the server's
// certificate for name by the authorities that its agent trusts. The agent must know the
// authority: in its system's roots or, with enable_agent_tls_for_checks, in its own.
//
// Default: Consul verifies the name of the service, or the host that it calls, if this
// machine's system roots prove one of them, and any certificate otherwise, such as one
// of a private authority: the check carries no secret, and clients verify for
// themselves. Of a server that demands a client's certificate, which Consul has not,
// it is as with WithTTLCheck(15s). The log line "serving" says which it is.
func WithHealthCheckServerName(name string) ServerOption {
	return serverOption(func(c *serverConfig) { c.checkName = name })
}

// WithHealthCheckSkipVerify makes Consul's check of the health take any certificate.
func WithHealthCheckSkipVerify() ServerOption {
	return serverOption(func(c *serverConfig) { c.checkSkipVerify = true })
}

// WithHealthListener answers the checks of grpc.health.v1, and nothing else, in
// plaintext at address, "host:port", where Consul then checks the health: for a server
// that demands what Consul's agent has not, such as a client's certificate. The agent
// must reach it: "" is a free port of 127.0.0.1, for an agent on the same machine.
func WithHealthListener(address string) ServerOption {
	return serverOption(func(c *serverConfig) { c.healthListener = &address })
}

// WithMetricsAddress is where /metrics, /healthz, /readyz and /debug/meshlite are served,
// and /debug/pprof if it is a loopback address. Whoever reaches it can read all that, and
// clear caches. /healthz is 200 as long as the process answers, and /readyz while the
// server can be called: it says so of "" and is registered. Default: a free port of
// 127.0.0.1. "off" is nowhere.
func WithMetricsAddress(address string) ServerOption {
	return serverOption(func(c *serverConfig) { c.metrics = address })
}

// WithMetricsHosts adds names by which /debug/meshlite and /debug/pprof may be called, such
// as that of a proxy, against DNS rebinding in browsers. Default: IP addresses, localhost,
// the machine's name, and the hosts of the advertised and of the metrics address. The other
// pages of WithMetricsAddress answer to all names.
func WithMetricsHosts(names ...string) ServerOption {
	return serverOption(func(c *serverConfig) { c.metricsHosts = append(c.metricsHosts, names...) })
}

// WithServiceNames registers the server under further names.
func WithServiceNames(names ...string) ServerOption {
	return serverOption(func(c *serverConfig) { c.names = append(c.names, names...) })
}

// WithTags registers the server with Consul tags.
func WithTags(tags ...string) ServerOption {
	return serverOption(func(c *serverConfig) { c.tags = append(c.tags, tags...) })
}

// WithMetadata registers the server with Consul service metadata. Two keys are
// taken: "metrics_address" tells where /metrics is, and "metrics_service", in the
// registrations under further names, the first name.
func WithMetadata(metadata map[string]string) ServerOption {
	return serverOption(func(c *serverConfig) { c.metadata = metadata })
}

// WithWeight sets the server's part of the traffic relative to other instances,
// at least 1, and the part while a check of it warns, 0 for none. Default: 1 and 1.
func WithWeight(passing, warning uint32) ServerOption {
	return serverOption(func(c *serverConfig) { c.weight, c.warningWeight = passing, warning })
}

// WithTTLCheck makes the server tell Consul of its health three times in each ttl,
// and Consul calls it critical when it has told nothing for a whole one. Consul then
// never calls the server, which is for networks where it cannot, and for servers that
// ask for a client's certificate, which Consul has not. At least 3 s. Default: Consul
// asks the server for its gRPC health every 5 s.
func WithTTLCheck(ttl time.Duration) ServerOption {
	return serverOption(func(c *serverConfig) { c.ttl, c.ttlGiven = ttl, true })
}

// WithDeregisterAfter makes Consul forget an instance that died without a word
// after this time: at least one minute, 0 is never. Default: 1 min.
func WithDeregisterAfter(d time.Duration) ServerOption {
	return serverOption(func(c *serverConfig) { c.deregisterAfter = d })
}

// WithDrain sets how long a server that stops still accepts calls after it has
// left Consul, so that clients have heard of it, and how long running calls have
// to end after that before they are cut off. Handlers then have one second more to
// return; those that do not are logged and left behind. Default: 1 s and 10 s.
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

// WithConcurrency bounds running handlers by limiter instead of the runtime's, for
// instance because it knows whose priorities to trust. Its owner counts its results by
// an observer; the admin page tells of it as long as it is in use. Servers with one
// runtime, or one limiter, count a method together.
func WithConcurrency(limiter *concurrency.Limiter) ServerOption {
	return serverOption(func(c *serverConfig) { c.concurrency = limiter })
}

// WithServerOptions passes options on to grpc.NewServer. They win over ours, which bound
// what a connection costs: grpc.MaxHeaderListSize 16 KiB, grpc.MaxConcurrentStreams
// 1,000, grpc.ConnectionTimeout 5 s (for the TLS handshake, the preface and the first
// settings), grpc.KeepaliveParams that close a connection after 30 min without a call,
// or without an answer to a ping for 20 s, the ping sent after 30 s of silence.
// Interceptors among them run outside of all concerns, the cache and the metrics
// too; those of [WithInterceptors] have their place inside.
func WithServerOptions(options ...grpc.ServerOption) ServerOption {
	return serverOption(func(c *serverConfig) { c.serverOptions = append(c.serverOptions, options...) })
}

// finish checks what only servers have.
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
	if c.ownPerConnection < 1 || c.ownPerServer < 1 {
		return optionError("WithInfrastructureStreams", fmt.Sprintf("%d, %d", c.ownPerConnection, c.ownPerServer), "write at least 1 each")
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
	if c.selfCheck != selfCheckOff {
		if err := checkAddress("WithSelfCheckAddress", c.selfCheck, true); err != nil {
			return err
		}
	}
	advertised := c.advertised
	if _, _, err := net.SplitHostPort(advertised); advertised != "" && err != nil {
		advertised = net.JoinHostPort(strings.Trim(advertised, "[]"), "1") // a host alone
	}
	if slices.Contains(c.metricsHosts, "") {
		return optionError("WithMetricsHosts", "", "write names, such as web-1.example.com, or leave it out")
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

// checkHealthCheck wants one way for Consul to learn of the health, and no more.
func (c *serverConfig) checkHealthCheck() error {
	var given []string
	for option, is := range map[string]bool{
		"WithTTLCheck": c.ttlGiven, "WithHealthListener": c.healthListener != nil,
		"WithHealthCheckServerName": c.checkName != "", "WithHealthCheckSkipVerify": c.checkSkipVerify,
	} {
		if is {
			given = append(given, option)
		}
	}
	slices.Sort(given)
	switch {
	case len(given) > 1:
		return optionError(given[0], given[1], "each says how Consul learns of the health: leave one of them out")
	case c.plaintext && (c.checkName != "" || c.checkSkipVerify):
		return optionError(given[0], c.checkName, "with WithPlaintext there is no certificate to verify: leave one of them out")
	case c.healthListener != nil:
		return checkAddress("WithHealthListener", *c.healthListener, false)
	}
	return nil
}

// checkRegistration wants what Consul will take, before anything is listened on.
func (c *serverConfig) checkRegistration() error {
	switch {
	case c.ttlGiven && c.ttl < minTTL:
		return optionError("WithTTLCheck", c.ttl.String(), "write at least 3s, or leave it out if Consul can call the server")
	case c.ttlGiven && c.check != "":
		return optionError("WithHealthCheckAddress", c.check, "with WithTTLCheck Consul calls nothing: leave one of them out")
	}
	if err := c.checkHealthCheck(); err != nil {
		return err
	}
	metrics := ""
	if c.metrics != metricsOff {
		metrics = unknownAddress
	}
	if err := consul.Validate(c.registration(c.names[0], unknownAddress, metrics)); err != nil {
		return fmt.Errorf("meshlite: %w", err)
	}
	return nil
}
