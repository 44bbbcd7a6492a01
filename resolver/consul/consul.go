// Package consul implements [catalog.Watcher], [catalog.Registrar] and [route.Watcher] for
// Consul's HTTP API: it watches services and their discovery chains by blocking queries, and
// keeps registrations that survive a restart of the agent.
//
// A Directory is configured by the CONSUL_* environment, as Consul's own command line is,
// and by the fields of Config, which take precedence:
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
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// Config says how to reach an agent. The zero value uses the CONSUL_* environment.
type Config struct {
	// Address of the agent, "host:port" or a URL. Empty: CONSUL_HTTP_ADDR, then localhost:8500.
	Address string
	// Token for ACLs. Empty: that of TokenFile, then CONSUL_HTTP_TOKEN.
	Token string
	// TokenFile holds a token that may change: each request reads the current one, or
	// the last good one while the file is missing or empty. Empty: CONSUL_HTTP_TOKEN_FILE.
	TokenFile string
	// Transport replaces the HTTP transport, with its TLS settings. Nil: one
	// made from CONSUL_HTTP_SSL, CONSUL_CACERT and their like.
	Transport http.RoundTripper

	// MaxBodyBytes bounds an answer of the agent, counted after decompression: 1 KiB to
	// 1 GiB. 0 is 64 MiB, which is some 50,000 instances. A larger answer is an error.
	// Errors, and answers that are not lists, are bounded by 4 MiB.
	MaxBodyBytes int64

	// Wait is how long the agent may hold a blocking query: 1 s to 10 min.
	// 0 is one minute, which bounds how long a connection that died silently
	// goes unnoticed.
	Wait time.Duration
	// Heartbeat is the mean time between two checks that the agent still has a
	// registration: at least 1 s. 0 is 5 s.
	Heartbeat time.Duration

	// Logger receives outages, and registrations that the agent lost. Nil is slog.Default().
	Logger *slog.Logger
}

const (
	defaultWait      = time.Minute
	maxWait          = 10 * time.Minute // Consul's own limit
	defaultHeartbeat = 5 * time.Second
	requestTimeout   = 5 * time.Second // for requests that do not block
)

// Directory is a Consul agent. It implements [catalog.Watcher], [catalog.Registrar] and
// [route.Watcher], and is safe for concurrent use.
type Directory struct {
	*client
	pool      *watchPool
	changes   *entryChanges // for the chains of the pool
	others    *otherAgents
	wait      time.Duration
	heartbeat time.Duration
}

var (
	_ catalog.Watcher   = (*Directory)(nil)
	_ catalog.Registrar = (*Directory)(nil)
	_ route.Watcher     = (*Directory)(nil)
)

// New checks the configuration. It sends nothing to the agent.
func New(config Config) (*Directory, error) {
	if config.Wait != 0 && (config.Wait < time.Second || config.Wait > maxWait) {
		return nil, fmt.Errorf("consul: Wait %v: Consul holds a query for 1s to 10m: write a time between, or 0 for %v", config.Wait, defaultWait)
	}
	if config.Heartbeat != 0 && config.Heartbeat < time.Second {
		return nil, fmt.Errorf("consul: Heartbeat %v would overload the agent: write at least 1s, or 0 for %v", config.Heartbeat, defaultHeartbeat)
	}
	if err := checkMaxBody(config.MaxBodyBytes); err != nil {
		return nil, err
	}
	client, err := newClient(config)
	if err != nil {
		return nil, err
	}
	d := &Directory{
		others:    &otherAgents{byAddress: map[string]*Directory{}},
		wait:      cmp.Or(config.Wait, defaultWait),
		heartbeat: cmp.Or(config.Heartbeat, defaultHeartbeat),
	}
	return d.of(client), nil
}

// of returns the directory of a client's agent, with the settings of d.
func (d *Directory) of(client *client) *Directory {
	other := *d
	other.client, other.pool = client, newWatchPool()
	other.changes = newEntryChanges(&other)
	client.counters.multiplex = other.pool.multiplex
	return &other
}

// Close closes idle connections. It ends neither watches nor leases.
func (d *Directory) Close() { d.settings.HttpClient.CloseIdleConnections() }

// Name returns "consul at " and the agent's address.
func (d *Directory) Name() string { return d.name() }

// NodeAddress returns the address of the agent's node, at which a service on the same
// machine can be reached.
func (d *Directory) NodeAddress(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	// api.Agent.Self takes no context.
	var self struct{ Member struct{ Addr string } }
	if err := d.get(ctx, "/v1/agent/self", &self); err != nil {
		return "", d.explain(err, "agent:read")
	}
	if self.Member.Addr == "" {
		return "", fmt.Errorf("%s did not report the address of its node", d.Name())
	}
	return self.Member.Addr, nil
}

// Watch follows q with blocking queries until ctx ends. It reports every answer,
// even if nothing has changed. An answer that lacks more than half of the last
// instances, or all of them, is confirmed by the leader before it is reported. A service that
// changes all the time is read twice a second. Beyond 20,000 instances the rest is left out,
// which is logged.
//
// Up to 60 watches of one agent have a query each, and are notified of a change at once. Of more,
// those of chains share five queries, and if more than 52 others are left, these take turns: each
// is notified within a second for each 52 of them. Where the agent speaks HTTP/2, as over TLS,
// connections carry many queries, and some 1,000 watches take no turns.
func (d *Directory) Watch(ctx context.Context, q catalog.Query, report func(catalog.Snapshot, error)) {
	runWatch(ctx, d, 0, "Service", q.Service, newWatch(d, q).run, report)
}

// runWatch runs a watch of what a field names, as one of the pool's; chains is 1 for a chain.
func runWatch[V any](ctx context.Context, d *Directory, chains int, field, name string, run func(context.Context, func(V, error)), report func(V, error)) {
	if err := checkName(field, name); err != nil {
		var none V
		report(none, err) // its URL would be that of another service
		<-ctx.Done()
		return
	}
	defer d.joinPool(chains)()
	run(ctx, report)
}

// joinPool adds a watch to the pool, until it leaves.
func (d *Directory) joinPool(chains int) (leave func()) {
	d.pool.add(1, chains)
	return func() {
		if d.pool.add(-1, -chains) {
			d.Close() // there may be no other request for long
		}
	}
}

// WatchIntentions reports the intentions about calls to destination, with the default of the
// agent and the trust domain of its CA, until ctx ends: every answer, even if nothing has
// changed, and the error of each attempt that fails. It needs a token with intentions:read on
// destination and agent:read. Without the latter the default stays as last read; it is deny
// before the first time.
//
// Intentions that are gone all at once, or of an older index, are read again, consistently,
// before they are reported. The watch shares the connections of [Directory.Watch].
func (d *Directory) WatchIntentions(ctx context.Context, destination string, report func(intention.Set, error)) {
	runWatch(ctx, d, 0, "destination", destination, newIntentionsWatch(d, destination).run, report)
}

// Intentions reads the intentions about calls to destination once.
func (d *Directory) Intentions(ctx context.Context, destination string) (intention.Set, error) {
	if err := checkName("destination", destination); err != nil {
		return intention.Set{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list, _, err := d.matchIntentions(ctx, destination, &api.QueryOptions{})
	if err != nil {
		return intention.Set{}, err
	}
	return newDefaults(d, destination).complete(ctx, intention.Set{Intentions: list})
}

// Identity follows the certificate of a service, and the roots of Consul's CA, until Close. A
// token needs service:write on the service.
func (d *Directory) Identity(service string) (*Identity, error) {
	if err := identity.CheckService(service); err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	i := &Identity{directory: d, service: service, cancel: cancel}
	for _, follow := range []func(context.Context){i.followRoots, i.followLeaf} {
		leave := d.joinPool(0)
		i.done.Go(func() {
			defer leave()
			follow(ctx)
		})
	}
	return i, nil
}

// WatchChain implements [route.Watcher]: it reports the discovery chain of service that Consul
// compiles for datacenter, empty for the agent's own, until ctx ends: every answer, even if
// nothing has changed, and the error of each attempt that fails. It needs a token with
// service:read on service.
//
// The chain is nil where no config entry says more than the names of the instances do. Where the
// agent has no chains or the token may not read this one, which is logged once, it reports a
// [*route.UnreadableError], until there has been a chain: then that is another error. A chain that
// is gone all at once, or of an older index, is read again, consistently, before it is reported.
//
// The watch shares the connections of [Directory.Watch]. While there are more watches than these
// are for, the chain is read after changes of the config entries that it is compiled of. If some of
// them may not be listed, as without service:read on the services that it leads to, it is also read
// every 5 s to 10 s, and otherwise once or twice in the Wait of the [Config].
func (d *Directory) WatchChain(ctx context.Context, service, datacenter string, report func(*route.Chain, error)) {
	runWatch(ctx, d, 1, "service", service, newChainWatch(d, service, datacenter).run, func(read compiled, err error) {
		switch {
		case err != nil:
		case read.unreadable != nil:
			err = read.unreadable
		default:
			err = read.refused
		}
		report(read.chain, err)
	})
}

// Chain reads the discovery chain of service once, as [Directory.WatchChain] reports it,
// except that it is an error if the agent has no chains or denies this one.
func (d *Directory) Chain(ctx context.Context, service, datacenter string) (*route.Chain, error) {
	if err := checkName("service", service); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	read, err := d.readChain(ctx, service, datacenter, &api.QueryOptions{})
	if err != nil {
		return nil, d.explainChain(err, service)
	}
	return read.chain, read.refused
}

// Register registers r with a check of its gRPC health or, if r has a TTL, one that the
// lease renews, and keeps it registered until the lease is deregistered. Every 5 s, give or
// take 20 %, it reads the registration from the agent, and registers again if it is missing, as
// after a restart of the agent, or differs. It does not change an operator's maintenance mode
// or the state of the check.
func (d *Directory) Register(ctx context.Context, r catalog.Registration) (catalog.Lease, error) {
	service, err := registration(r)
	if err != nil {
		return nil, err
	}
	l := &lease{client: d.client, heartbeat: d.heartbeat, registration: r, service: service, log: d.log.With("service", r.Service, "id", r.ID)}
	if err := l.register(ctx); err != nil {
		d.counters.services.record(r.Service, nil, err)
		return nil, err
	}
	l.start(ctx)
	return l, nil
}

// maxOtherAgents bounds the other agents that share their connections. Beyond it each
// [Directory.At] returns a new directory.
const maxOtherAgents = 64

// otherAgents are the directories of other agents than the configured one, so that all
// targets that name one of them share its connections and statistics.
type otherAgents struct {
	mu        sync.Mutex
	byAddress map[string]*Directory
}

func (o *otherAgents) all() []*Directory {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []*Directory
	for _, d := range o.byAddress {
		all = append(all, d)
	}
	return all
}

// At returns the directory of another agent, "host:port", with the same settings and
// transport. For d's own agent that is d, so that two watch pools do not compete for
// the connections to one agent.
func (d *Directory) At(agent string) (catalog.Watcher, error) {
	if agent == d.address {
		return d, nil
	}
	d.others.mu.Lock()
	defer d.others.mu.Unlock()
	if other := d.others.byAddress[agent]; other != nil {
		return other, nil
	}
	client, err := d.client.at(agent)
	if err != nil {
		return nil, err
	}
	other := d.of(client)
	if len(d.others.byAddress) < maxOtherAgents {
		d.others.byAddress[agent] = other
	}
	return other, nil
}

// Stats counts the requests to one agent since the directory was made.
type Stats struct {
	Agent           string `json:"agent"`           // its address
	Requests        uint64 `json:"requests"`        // sent to the agent, including blocking queries
	Failures        uint64 `json:"failures"`        // of these: without an answer, or with an error
	Reregistrations uint64 `json:"reregistrations"` // of registrations that the agent had lost or changed
	Watches         int    `json:"watches"`         // open now
	Registrations   int    `json:"registrations"`   // kept now

	Services []ServiceStats `json:"services"` // registered by this process, sorted by name
}

type counters struct {
	requests, failures, reregistrations atomic.Uint64
	registrations                       atomic.Int64
	services                            serviceRecords

	streams   atomic.Bool // of HTTP/2, in the last answer
	multiplex func(streams bool)
}

// Stats returns the stats of the directory's own agent first, then of those that
// [Directory.At] has returned.
func (d *Directory) Stats() []Stats {
	all := []Stats{d.stats()}
	for _, other := range d.others.all() {
		all = append(all, other.stats())
	}
	return all
}

func (d *Directory) stats() Stats {
	return Stats{
		Agent:           d.address,
		Requests:        d.counters.requests.Load(),
		Failures:        d.counters.failures.Load(),
		Reregistrations: d.counters.reregistrations.Load(),
		Watches:         d.pool.size(),
		Registrations:   int(d.counters.registrations.Load()),
		Services:        d.counters.services.stats(),
	}
}
