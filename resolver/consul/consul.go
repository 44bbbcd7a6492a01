// Package consul is the directory of [catalog] spoken to Consul over HTTP:
// blocking-query watches and registrations that an agent cannot forget.
//
// A Directory is configured by the CONSUL_* environment, like Consul's own
// command line, and by what its Config sets above that:
//
//	directory, err := consul.New(consul.Config{})
//	defer directory.Close()
//	conn, err := grpc.NewClient("consul:///catalog", append(resolver.DialOptions(directory), creds)...)
//
// The rules of blocking queries are those of
// https://developer.hashicorp.com/consul/api-docs/features/blocking.
package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Config says how to reach an agent. Every zero field has a meaning.
type Config struct {
	// Address of the agent, "host:port" or a URL. Empty: CONSUL_HTTP_ADDR, then localhost:8500.
	Address string
	// Token for ACLs. Empty: that of TokenFile, then CONSUL_HTTP_TOKEN.
	Token string
	// TokenFile holds a token that may change: every request takes the one of its
	// time, or the last good one while the file is missing or empty. Empty:
	// CONSUL_HTTP_TOKEN_FILE.
	TokenFile string
	// Transport replaces the HTTP transport, with its TLS settings. Nil: one
	// made from CONSUL_HTTP_SSL, CONSUL_CACERT and their like.
	Transport http.RoundTripper

	// MaxBodyBytes bounds an answer of the agent, counted after decompression: 1 KiB to
	// 1 GiB. 0 is 64 MiB, which is some 50,000 instances. A larger answer is an error.
	// Errors, and answers that are no lists, have 4 MiB at most.
	MaxBodyBytes int64

	// Wait is how long the agent may hold a blocking query: 1 s to 10 min.
	// 0 is one minute, which bounds how long a connection that died in silence
	// goes unnoticed.
	Wait time.Duration
	// Heartbeat is the mean time between two looks whether the agent still knows
	// a registration: at least 1 s. 0 is 5 s.
	Heartbeat time.Duration

	// Logger hears of outages and of what the agent forgot. Nil is slog.Default().
	Logger *slog.Logger
}

const (
	defaultWait      = time.Minute
	maxWait          = 10 * time.Minute // Consul's own limit
	defaultHeartbeat = 5 * time.Second
	requestTimeout   = 5 * time.Second // for what does not block
)

// Directory is one agent. It implements [catalog.Watcher] and
// [catalog.Registrar] and is safe for concurrent use.
type Directory struct {
	client    *api.Client
	settings  api.Config
	address   string
	socket    bool // whether the address is a unix socket
	token     bool // whether requests carry one
	tokenNow  func() string
	base      http.RoundTripper // below what is ours
	crowd     *crowd
	counters  *counters
	agents    *agents // other than this one
	wait      time.Duration
	heartbeat time.Duration
	maxBody   int64 // of an answer
	log       *slog.Logger
}

var (
	_ catalog.Watcher   = (*Directory)(nil)
	_ catalog.Registrar = (*Directory)(nil)
)

// New checks the configuration. It asks the agent nothing.
func New(config Config) (*Directory, error) {
	if config.Wait != 0 && (config.Wait < time.Second || config.Wait > maxWait) {
		return nil, fmt.Errorf("consul: Wait %v is not in 1s to 10m, which is what Consul holds a query for", config.Wait)
	}
	if config.Heartbeat != 0 && config.Heartbeat < time.Second {
		return nil, fmt.Errorf("consul: Heartbeat %v is below 1s and would burden the agent", config.Heartbeat)
	}
	if err := checkMaxBody(config.MaxBodyBytes); err != nil {
		return nil, err
	}
	settings := api.DefaultConfig()
	prepare(settings.Transport)
	if config.Address != "" {
		settings.Address = config.Address
	}
	if config.Transport != nil {
		settings.HttpClient = &http.Client{Transport: config.Transport}
	}
	d := &Directory{
		wait:      cmp.Or(config.Wait, defaultWait),
		heartbeat: cmp.Or(config.Heartbeat, defaultHeartbeat),
		maxBody:   cmp.Or(config.MaxBodyBytes, defaultMaxBody),
		log:       config.Logger,
		agents:    &agents{known: map[string]*Directory{}},
	}
	if d.log == nil {
		d.log = slog.Default()
	}
	var err error
	if d.tokenNow, err = tokenOf(config, settings, d.log); err != nil {
		return nil, err
	}
	if d.tokenNow != nil {
		settings.Token, settings.TokenFile = d.tokenNow(), ""
	}
	if err := d.connect(*settings); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Directory) connect(settings api.Config) error {
	address := settings.Address
	if err := checkAgentAddress(address); err != nil {
		return err
	}
	d.socket = strings.HasPrefix(address, "unix://")
	client, err := api.NewClient(&settings)
	if err != nil {
		return fmt.Errorf("consul: no client for the agent at %q can be made of the CONSUL_* settings: %w", address, err)
	}
	d.crowd, d.counters = newCrowd(), &counters{}
	d.base = settings.HttpClient.Transport
	settings.HttpClient.Transport = d.transport()
	settings.HttpClient.CheckRedirect = sameHost
	d.client, d.settings = client, settings
	d.address = settings.Address + settings.PathPrefix // without the scheme, which NewClient has cut off
	d.token = settings.Token != ""
	return nil
}

// transport is the base with what is ours around it.
func (d *Directory) transport() http.RoundTripper {
	next := http.RoundTripper(counted{decoder{bounded{d.base, d.maxBody}}, d.counters})
	if d.tokenNow != nil {
		next = authorized{next, d.tokenNow}
	}
	return next
}

// checkAgentAddress repeats no address that may hold a secret.
func checkAgentAddress(address string) error {
	if strings.Contains(address, "@") {
		return errors.New("consul: the address of the agent has user information: set CONSUL_HTTP_AUTH or CONSUL_HTTP_TOKEN instead")
	}
	if strings.ContainsAny(address, "?#") {
		return errors.New("consul: the address of the agent has a query: leave it out, a token belongs in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE")
	}
	for _, scheme := range []string{"http://", "https://", "unix://"} {
		if strings.HasPrefix(address, scheme) {
			return nil // these have ports of their own
		}
	}
	if _, port, err := net.SplitHostPort(address); err != nil || !isPort(port) {
		return fmt.Errorf("consul: the address of the agent is %q: set CONSUL_HTTP_ADDR to host:port, such as 127.0.0.1:8500", address)
	}
	return nil
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// Close gives idle connections back. Watches and leases end by their own means.
func (d *Directory) Close() { d.settings.HttpClient.CloseIdleConnections() }

// Name is "consul at " and the agent's address.
func (d *Directory) Name() string { return "consul at " + d.address }

// NodeAddress is the address of the agent's node, which is where a service
// beside the agent is reached.
func (d *Directory) NodeAddress(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	// api.Agent.Self takes no context.
	var self struct{ Member struct{ Addr string } }
	if err := d.ask(ctx, "/v1/agent/self", &self); err != nil {
		return "", d.explain(err, "agent:read")
	}
	if self.Member.Addr == "" {
		return "", fmt.Errorf("%s did not tell the address of its node", d.Name())
	}
	return self.Member.Addr, nil
}
