package meshlite

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/authz"
	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// unknownAddress stands for the addresses that are known only when the server listens.
const unknownAddress = "localhost:1"

type serverConfig struct {
	config
	listen, advertised, metrics    string
	listenBy, metricsBy            string // the option or variable that sets them
	metricsHosts                   []string
	registrations                  []catalog.Registration // the first is of the server's own name
	drain, stopTimeout             time.Duration
	healthListener                 *string // its address
	concurrency                    *concurrency.Limiter
	policies                       *interceptors.Policies
	share                          *share
	intentions                     *authz.Authorizer // that the identity implies, nil is none
	serverOptions                  []grpc.ServerOption
	ownPerConnection, ownPerServer int
}

// WithListenAddress is where calls are accepted: "host:port", ":8080" for every address of
// the machine, or "8080" for a port of the advertised host alone. Default, and "", so that
// os.Getenv("PORT") can be passed as it is: MESHLITE_LISTEN_ADDRESS, else a free port of the
// advertised host.
func WithListenAddress(address string) ServerOption {
	return serverOption(func(c *serverConfig) { c.listen, c.listenBy = address, "WithListenAddress" })
}

// WithAdvertisedAddress is where clients find the server: "host", or "host:port"
// where the port is not the one listened on. Default: the host listened on, or
// the address of the agent's node. The host is also listened on unless
// WithListenAddress says where. A network instead of a host, such as "10.1.0.0/16" or
// "fd00:1::/64", is the one address that this machine has in it: for containers, whose
// addresses are not known before they start.
func WithAdvertisedAddress(address string) ServerOption {
	return serverOption(func(c *serverConfig) { c.advertised = address })
}

// WithRegistration sets how the server is registered in the directory: tags, metadata,
// weights, and how its health is checked. Without a Service it is about the server's own
// name; each other Service is a further name, with a registration of its own. Zero values
// are the defaults of [catalog.Registration], besides:
//
//   - ID: of the name and the address ([catalog.InstanceID]).
//   - Metadata: "metrics_address", where /metrics is, and for further names
//     "metrics_service", the server's own name, are added to what is given.
//   - CheckAddress: the advertised address, or that of [WithHealthListener]. The server
//     must reach it, to prove it.
//   - CheckTLS, CheckServerName: Consul verifies the name of the service, or the host that
//     it calls, if this machine's system roots prove one of them, and any certificate
//     otherwise, such as one of a private authority: the check carries no secret, and
//     clients verify for themselves. With a CheckServerName it verifies that name by the
//     authorities of its agent: those of the system or, with enable_agent_tls_for_checks,
//     the agent's own. A server that demands a client's certificate reports its health
//     itself, as with a TTL of 15 s, unless CheckServerName or CheckSkipVerify is set and the
//     agent has enable_agent_tls_for_checks: then it presents its own, whose authority the
//     server must trust. The log line "serving" names the check.
//   - SelfCheck: the server connects to the advertised address before it registers. A
//     function given here replaces that, for networks where the server cannot reach itself
//     there, such as a port mapping without hairpin NAT; [catalog.NoSelfCheck] leaves it to
//     Consul. The health is then proven at the address that the server listens on.
//
// Address, Region and Zone have options of their own: [WithAdvertisedAddress] and
// [WithLocality]. Repeated, it adds; a name that is given twice is an error.
func WithRegistration(registration catalog.Registration) ServerOption {
	return serverOption(func(c *serverConfig) { c.registrations = append(c.registrations, registration) })
}

// WithHealthListener answers the checks of grpc.health.v1, and nothing else, in
// plaintext at address, "host:port", where Consul then checks the health: for a server
// that demands what Consul's agent has not, such as the certificate of a service. The agent
// must reach it: "" is a free port of 127.0.0.1, for an agent on the same machine.
func WithHealthListener(address string) ServerOption {
	return serverOption(func(c *serverConfig) { c.healthListener = &address })
}

// WithMetricsAddress is where /metrics, /healthz, /readyz, /debug/meshlite and /debug/pprof
// are served, by HTTPS as well if the server has an identity. The debug pages, which clear caches
// too, are for requests with the token of MESHLITE_ADMIN_TOKEN or a line of
// MESHLITE_ADMIN_TOKEN_FILE, or by HTTPS as one of the SPIFFE ids in MESHLITE_ADMIN_IDENTITIES
// (separated by commas), or for loopback if none of them is set. /healthz is
// 200 as long as the process answers, and /readyz while the server can be called: "" is
// serving and registered. Default: MESHLITE_METRICS_ADDRESS, else a free port of 127.0.0.1.
// "" does not serve them.
//
// /debug/meshlite and /debug/pprof, against DNS rebinding in browsers, may be called by IP
// addresses, localhost, the machine's name, the hosts of the advertised and of this
// address, and hosts, such as the name of a proxy. The other pages answer to all names.
func WithMetricsAddress(address string, hosts ...string) ServerOption {
	return serverOption(func(c *serverConfig) { c.metrics, c.metricsBy, c.metricsHosts = address, "WithMetricsAddress", hosts })
}

// WithDrain sets how long a server that stops still accepts calls after it has
// left Consul, so that clients are notified first, and how long running calls have
// to end after that before they are cut off. Handlers then have one second more to
// return; those that do not are logged and left behind. Default: 1 s and 10 s.
func WithDrain(drain, stopTimeout time.Duration) ServerOption {
	return serverOption(func(c *serverConfig) { c.drain, c.stopTimeout = drain, stopTimeout })
}

// WithConcurrency bounds running handlers by limiter instead of the runtime's, for
// instance because it has other trusted peers. Its owner counts its results by an
// observer; the admin page shows it as long as it is in use. Servers with one
// runtime, or one limiter, count a method together.
func WithConcurrency(limiter *concurrency.Limiter) ServerOption {
	return serverOption(func(c *serverConfig) { c.concurrency = limiter })
}

// WithServerOptions passes options on to grpc.NewServer. They win over ours, which bound
// what a connection costs: grpc.MaxHeaderListSize 16 KiB, grpc.MaxConcurrentStreams
// 1,000, grpc.ConnectionTimeout 5 s (for the TLS handshake, the preface and the first
// settings), grpc.KeepaliveParams that close a connection after 30 min without a call,
// or without an answer to a ping for 20 s, the ping sent after 30 s of silence.
// grpc.NumStreamWorkers is 32 per processor, 64 to 1,024: goroutines that wait for calls
// instead of a new one for each; 0 turns them off.
// Interceptors among them run outside of all concerns, the cache and the metrics
// too; those of [WithInterceptors] have their place inside.
func WithServerOptions(options ...grpc.ServerOption) ServerOption {
	return serverOption(func(c *serverConfig) { c.serverOptions = append(c.serverOptions, options...) })
}

// finish checks what only servers have.
func (c *serverConfig) finish(service string) error {
	if err := c.config.finish(); err != nil {
		return err
	}
	if err := c.findDirectory(); err != nil {
		return err
	}
	if err := c.environment(); err != nil {
		return err
	}
	var err error
	if c.advertised, err = inNetwork(c.advertised, net.InterfaceAddrs); err != nil {
		return err
	}
	if err := c.checkAddresses(); err != nil {
		return err
	}
	if c.drain < 0 || c.stopTimeout < 0 {
		return optionError("WithDrain", c.drain.String()+", "+c.stopTimeout.String(), "write durations from 0 on")
	}
	if c.ownPerConnection < 1 || c.ownPerServer < 1 {
		return optionError("WithInfrastructureStreams", fmt.Sprintf("%d, %d", c.ownPerConnection, c.ownPerServer), "write at least 1 each")
	}
	return cmp.Or(c.nameRegistrations(service), c.checkRegistrations())
}

// nameRegistrations puts the registration of the server's own name first.
func (c *serverConfig) nameRegistrations(service string) error {
	all := []catalog.Registration{{Instance: catalog.Instance{Service: service}}}
	named := map[string]bool{}
	for _, r := range c.registrations {
		r.Service = cmp.Or(r.Service, service)
		if named[r.Service] {
			return optionError("WithRegistration", r.Service, "the name is given twice: leave one out")
		}
		named[r.Service] = true
		if r.Service == service {
			all[0] = r
		} else {
			all = append(all, r)
		}
	}
	c.registrations = all
	for _, r := range all {
		if !serviceName.MatchString(r.Service) {
			return fmt.Errorf("meshlite: service name %q: write up to 63 letters, digits and hyphens, as DNS allows", r.Service)
		}
	}
	return nil
}

func (c *serverConfig) checkAddresses() error {
	advertised := c.advertised
	if _, _, err := net.SplitHostPort(advertised); advertised != "" && err != nil {
		advertised = net.JoinHostPort(strings.Trim(advertised, "[]"), "1") // a host alone
	}
	if slices.Contains(c.metricsHosts, "") {
		return optionError("WithMetricsAddress", "", "write hosts such as web-1.example.com, or leave them out")
	}
	listen := c.listen
	if listen != "" && c.listenPort() == "" && !strings.Contains(listen, ":") {
		return optionError(c.listenBy, listen, "write host:port, :port, or a port from 0 to 65535")
	} else if c.listenPort() != "" {
		listen = ""
	}
	health := ""
	if c.healthListener != nil {
		health = *c.healthListener
	}
	return cmp.Or(
		checkAddress(c.metricsBy, c.metrics, false),
		checkAddress(c.listenBy, listen, false),
		checkAddress("WithAdvertisedAddress", advertised, true),
		checkAddress("WithHealthListener", health, false))
}

// listenPort is the port of the advertised host that WithListenAddress names; "" if it
// names a host, too.
func (c *serverConfig) listenPort() string {
	if _, err := strconv.ParseUint(c.listen, 10, 16); err != nil {
		return ""
	}
	return c.listen
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

// checkRegistrations wants what Consul accepts, before anything is listened on.
func (c *serverConfig) checkRegistrations() error {
	for _, r := range c.registrations {
		if err := cmp.Or(c.checkReserved(r), c.checkHealthCheck(r)); err != nil {
			return err
		}
		metrics := ""
		if c.metrics != "" {
			metrics = unknownAddress
		}
		if err := consul.Validate(c.registration(r, unknownAddress, metrics)); err != nil {
			return registrationError("%w", err)
		}
	}
	return nil
}

// checkReserved refuses fields that have options of their own, or none.
func (c *serverConfig) checkReserved(r catalog.Registration) error {
	switch {
	case r.Address != "":
		return registrationError("Address %q: leave it out: WithAdvertisedAddress sets it", r.Address)
	case r.Region != "" || r.Zone != "":
		return registrationError("Region %q, Zone %q: leave them out: WithLocality sets them", r.Region, r.Zone)
	case r.Node != "" || r.Datacenter != "" || r.Status != 0:
		return registrationError("Node %q, Datacenter %q, Status %v: leave them out: the directory sets them", r.Node, r.Datacenter, r.Status)
	}
	return nil
}

// checkHealthCheck wants one way to check the health, and no more.
func (c *serverConfig) checkHealthCheck(r catalog.Registration) error {
	verifies := r.CheckTLS || r.CheckServerName != "" || r.CheckSkipVerify
	switch {
	case r.CheckServerName != "" && r.CheckSkipVerify:
		return registrationError("CheckServerName %q with CheckSkipVerify: leave one of them out", r.CheckServerName)
	case c.plaintext && verifies:
		return registrationError("CheckTLS %t, CheckServerName %q, CheckSkipVerify %t: with WithPlaintext there is no certificate: leave them out",
			r.CheckTLS, r.CheckServerName, r.CheckSkipVerify)
	case c.healthListener != nil && verifies:
		return registrationError("CheckTLS %t, CheckServerName %q, CheckSkipVerify %t: WithHealthListener answers in plaintext: leave one of them out",
			r.CheckTLS, r.CheckServerName, r.CheckSkipVerify)
	case c.healthListener != nil && r.TTL != 0:
		return registrationError("TTL %v: with one Consul does not call WithHealthListener: leave one of them out", r.TTL)
	}
	return nil
}

func registrationError(format string, args ...any) error {
	return fmt.Errorf("meshlite: WithRegistration: "+format, args...)
}

// registration is how the server is registered under one of its names.
func (c *serverConfig) registration(r catalog.Registration, address, metrics string) catalog.Registration {
	r.ID, r.Address = cmp.Or(r.ID, catalog.InstanceID(r.Service, address)), address
	r.Region, r.Zone = c.region, c.zone
	// A name that is verified needs TLS, which is found out by calling the server.
	r.CheckTLS = r.CheckTLS || r.CheckServerName != "" || r.CheckSkipVerify
	if _, signed := consulIdentity(c.identity()); signed {
		r.ConnectNative = true
	}
	given := r.Metadata
	r.Metadata = map[string]string{}
	maps.Copy(r.Metadata, given)
	if metrics != "" {
		r.Metadata["metrics_address"] = metrics
		// A process under several names is scraped under the first of them, once.
		if own := c.registrations[0].Service; r.Service != own {
			r.Metadata["metrics_service"] = own
		}
	}
	return r
}

// names are those under which the server is registered, its own first.
func (c *serverConfig) names() []string {
	var names []string
	for _, r := range c.registrations {
		names = append(names, r.Service)
	}
	return names
}
