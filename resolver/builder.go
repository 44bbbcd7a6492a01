package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/internal/wire"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// DefaultServiceConfig selects least request or, where that package is not
// imported, gRPC's round robin.
const DefaultServiceConfig = `{"loadBalancingConfig": [{"meshlite_least_request": {}}, {"round_robin": {}}]}`

// DialOptions make grpc.NewClient resolve consul:/// targets in directory. They are the
// builder, a default policy (a service config in a later option wins), and
// grpc.WithNoProxy: with HTTPS_PROXY set gRPC would replace all endpoints by the
// address of the proxy.
func DialOptions(directory catalog.Watcher, opts ...Option) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithResolvers(NewBuilder(directory, opts...)),
		grpc.WithNoProxy(),
		grpc.WithDefaultServiceConfig(DefaultServiceConfig),
	}
}

// Builder builds resolvers that share their watches and the measurements of endpoints. It
// is a [resolver.Builder] of gRPC and safe for concurrent use.
type Builder struct {
	settings
	directory catalog.Watcher
	watches   *watchRegistry
	chains    *chainRegistry
	tables    *tableRegistry
}

// NewBuilder returns a builder that watches services in directory.
func NewBuilder(directory catalog.Watcher, opts ...Option) *Builder {
	b := &Builder{
		directory: directory,
		settings:  defaults(),
		watches:   newWatchRegistry(),
		chains:    &chainRegistry{open: map[chainKey]*chainWatch{}},
		tables:    &tableRegistry{byTarget: map[string]*targetTable{}},
	}
	return b.With(opts...)
}

// With returns a copy of b with opts applied. Both share their watches.
func (b *Builder) With(opts ...Option) *Builder {
	other := *b
	for _, o := range opts {
		o(&other.settings)
	}
	return &other
}

// Idle reports whether all channels of b are closed or idle.
func (b *Builder) Idle() bool {
	b.watches.mu.Lock()
	defer b.watches.mu.Unlock()
	return len(b.watches.open) == 0
}

// Scheme returns [Scheme].
func (b *Builder) Scheme() string { return Scheme }

// OverrideAuthority returns the service: the name that instances must prove under TLS unless
// WithAuthority or the transport credentials give another. A ServerName in an address
// would take precedence over the credentials.
func (b *Builder) OverrideAuthority(target resolver.Target) string {
	return url.PathEscape(strings.Trim(target.URL.Path, "/"))
}

// bundledServerName returns the server name that a credentials.Bundle pins. gRPC derives the
// authority only from transport credentials that are given without a bundle.
func bundledServerName(opts resolver.BuildOptions) string {
	if opts.CredsBundle == nil || opts.CredsBundle.TransportCredentials() == nil {
		return ""
	}
	//lint:ignore SA1019 gRPC itself reads a pinned name from there
	return opts.CredsBundle.TransportCredentials().Info().ServerName
}

// Build starts a resolver. It is called by gRPC.
func (b *Builder) Build(grpcTarget resolver.Target, cc resolver.ClientConn, opts resolver.BuildOptions) (resolver.Resolver, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	target, err := parseTarget(&grpcTarget.URL)
	if err != nil {
		return nil, err
	}
	directory, err := b.directoryOf(target)
	if err != nil {
		return nil, err
	}
	if b.router == nil {
		return b.discover(target, directory, cc, opts, bundledServerName(opts))
	}
	return b.route(target, directory, cc, opts)
}

// discover starts the discovery of one target.
func (b *Builder) discover(target Target, directory catalog.Watcher, cc resolver.ClientConn, opts resolver.BuildOptions, serverName string) (*consulResolver, error) {
	r := &consulResolver{
		builder: b, target: target, cc: cc,
		directory:   directory.Name(),
		serverName:  serverName,
		datacenters: map[string]*attributes.Attributes{},
		wake:        make(chan struct{}, 1),
		done:        make(chan struct{}),
	}
	for _, datacenter := range target.Datacenters {
		r.datacenters[datacenter] = wire.DatacenterAttributes(datacenter)
	}
	if target.Policy != "" {
		var err error
		if r.serviceConfig, err = parsed(b.serviceConfigOf(target.Policy), cc, opts); err != nil {
			return nil, fmt.Errorf("target key \"policy\": %w", err)
		}
	}
	queries := target.queries(b.warning)
	for _, q := range queries {
		r.sources = append(r.sources, b.watches.subscribe(directory, q, b.settings, r.wake))
	}
	r.table, r.releaseTable = b.tables.acquire(directory.Name(), queries, b.log.With("service", target.Service))
	r.subset = subset{size: b.subset, seed: b.watches.seed, byDistance: target.Near != "", table: r.table, wake: r.wake}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go r.run(ctx)
	return r, nil
}

// parsed parses a service config for a channel.
func parsed(text string, cc resolver.ClientConn, opts resolver.BuildOptions) (*serviceconfig.ParseResult, error) {
	if opts.DisableServiceConfig {
		return nil, errors.New("it needs a service config, which grpc.WithDisableServiceConfig turns off: leave out one of the two")
	}
	config := cc.ParseServiceConfig(text)
	if config.Err != nil {
		return nil, fmt.Errorf("its service config: %w", config.Err)
	}
	return config, nil
}

// directoryOf returns the directory of the agent that target names, else the builder's.
func (b *Builder) directoryOf(target Target) (catalog.Watcher, error) {
	if target.Agent == "" {
		return b.directory, nil
	}
	agents, ok := b.directory.(interface {
		At(agent string) (catalog.Watcher, error)
	})
	if !ok {
		return nil, fmt.Errorf("target agent %q: %s cannot reach other agents: leave the host out", target.Agent, b.directory.Name())
	}
	return agents.At(target.Agent)
}

// tableRegistry holds the endpoint tables by target, so that a channel that leaves idle mode
// finds its own again.
type tableRegistry struct {
	mu       sync.Mutex
	byTarget map[string]*targetTable
}

type targetTable struct {
	directory  string // its name
	queries    []catalog.Query
	table      *balancer.Table
	channels   int
	releasedAt time.Time
}

// An unused table is kept for an hour. Beyond 1024 tables each new one evicts the unused.
const (
	tableTTL  = time.Hour
	maxTables = 1024
)

// acquire returns the table of channels with these queries to directory, with the logger of
// the first of them.
func (r *tableRegistry) acquire(directory string, queries []catalog.Query, log *slog.Logger) (table *balancer.Table, release func()) {
	key := tableKey(directory, queries)
	r.mu.Lock()
	defer r.mu.Unlock()
	for other, t := range r.byTarget {
		if other != key && t.channels == 0 && (time.Since(t.releasedAt) > tableTTL || len(r.byTarget) >= maxTables) {
			delete(r.byTarget, other)
		}
	}
	t := r.byTarget[key]
	if t == nil {
		t = &targetTable{directory: directory, queries: queries, table: balancer.NewTable().WithLogger(log)}
		r.byTarget[key] = t
	}
	t.channels++
	return t.table, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		t.channels--
		t.releasedAt = time.Now()
	}
}

// tableKey is what channels must have in common to share a table.
func tableKey(directory string, queries []catalog.Query) string {
	key := directory
	for _, q := range queries {
		key += "?" + q.Key()
	}
	return key
}

// used returns copies of the tables that channels use, in order.
func (r *tableRegistry) used() []targetTable {
	r.mu.Lock()
	defer r.mu.Unlock()
	var used []targetTable
	for _, key := range slices.Sorted(maps.Keys(r.byTarget)) {
		if t := r.byTarget[key]; t.channels > 0 {
			used = append(used, *t)
		}
	}
	slices.SortStableFunc(used, func(a, b targetTable) int {
		return cmp.Or(cmp.Compare(a.directory, b.directory), cmp.Compare(a.queries[0].Service, b.queries[0].Service))
	})
	return used
}

// Picks is how the calls to one target are picked: the endpoints of its channels and their
// state. Latencies are in milliseconds, parts of a whole go from 0 to 1. Channels with a policy
// of another module have no endpoints here.
type Picks struct {
	Directory string          `json:"directory"` // its name
	Service   string          `json:"service"`
	Queries   []catalog.Query `json:"queries"`  // one for each datacenter, in the order of failover
	Channels  int             `json:"channels"` // that share the endpoints
	balancer.TableStats
}

// Picks returns the pick statistics of the targets that channels use now, sorted by directory,
// service and queries. Idle channels do not count. It is safe for concurrent use. The result is
// a copy, except for the queries, which must not be changed.
func (b *Builder) Picks() []Picks {
	used := b.tables.used()
	all := make([]Picks, len(used))
	for i, t := range used {
		all[i] = Picks{
			Directory: t.directory, Service: t.queries[0].Service, Queries: t.queries, Channels: t.channels,
			TableStats: t.table.Stats(),
		}
	}
	return all
}
