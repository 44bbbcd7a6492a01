package resolver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// DefaultServiceConfig chooses least request or, where that package is not
// imported, gRPC's round robin.
const DefaultServiceConfig = `{"loadBalancingConfig": [{"meshlite_least_request": {}}, {"round_robin": {}}]}`

// DialOptions make a grpc.NewClient resolve consul:/// targets in directory. They
// are the builder's, a policy for channels whose owner names none, and
// grpc.WithNoProxy: with HTTPS_PROXY set gRPC would replace all endpoints by the
// address of the proxy. Options that come after them win.
func DialOptions(directory catalog.Watcher, opts ...Option) []grpc.DialOption {
	return NewBuilder(directory, opts...).DialOptions()
}

// Option changes a [Builder].
type Option func(*Builder)

// WithWarning also calls instances in warning state, with Consul's warning weight.
func WithWarning() Option { return func(b *Builder) { b.warning = true } }

// WithStartTimeout bounds how long the first call waits for an answer of the
// directory before it fails Unavailable. Default: 5 s.
func WithStartTimeout(d time.Duration) Option { return func(b *Builder) { b.startTimeout = d } }

// WithGrace sets how long an empty answer must stand before the last instances
// are given up. Default: 15 s, which is more than two heartbeats of a
// registration, jitter included.
func WithGrace(d time.Duration) Option { return func(b *Builder) { b.grace = d } }

// WithLogger hears of outages of the directory. Default: slog.Default().
func WithLogger(log *slog.Logger) Option { return func(b *Builder) { b.log = log } }

// Builder makes resolvers that share their watches and what is learned of
// endpoints. It is a [resolver.Builder] of gRPC and safe for concurrent use.
type Builder struct {
	directory    catalog.Watcher
	warning      bool
	startTimeout time.Duration
	grace        time.Duration
	log          *slog.Logger

	watches watches
	tables  tables
}

// NewBuilder makes a builder over directory.
func NewBuilder(directory catalog.Watcher, opts ...Option) *Builder {
	b := &Builder{
		directory:    directory,
		startTimeout: 5 * time.Second,
		grace:        15 * time.Second,
		log:          slog.Default(),
		watches:      watches{open: map[string]*watch{}},
		tables:       tables{kept: map[string]*kept{}},
	}
	for _, o := range opts {
		o(b)
	}
	return b
}

// DialOptions are the options of [DialOptions] for this builder.
func (b *Builder) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithResolvers(b),
		grpc.WithNoProxy(),
		grpc.WithDefaultServiceConfig(DefaultServiceConfig),
	}
}

// Idle reports whether no channel uses b now: all are closed or idle.
func (b *Builder) Idle() bool {
	b.watches.mu.Lock()
	defer b.watches.mu.Unlock()
	return len(b.watches.open) == 0
}

// WithServiceConfig is b for a channel whose owner has a service config of his
// own. A policy= in the target replaces the policy in it, and nothing else.
func (b *Builder) WithServiceConfig(config string) resolver.Builder {
	return channelBuilder{b, config}
}

// channelBuilder is the builder of one channel.
type channelBuilder struct {
	*Builder
	serviceConfig string
}

// Build starts a resolver. gRPC calls it.
func (c channelBuilder) Build(target resolver.Target, cc resolver.ClientConn, opts resolver.BuildOptions) (resolver.Resolver, error) {
	return c.build(target, cc, opts, c.serviceConfig)
}

// Scheme is [Scheme].
func (b *Builder) Scheme() string { return Scheme }

// Build starts a resolver. gRPC calls it.
func (b *Builder) Build(target resolver.Target, cc resolver.ClientConn, opts resolver.BuildOptions) (resolver.Resolver, error) {
	return b.build(target, cc, opts, "{}")
}

func (b *Builder) build(grpcTarget resolver.Target, cc resolver.ClientConn, opts resolver.BuildOptions, serviceConfig string) (resolver.Resolver, error) {
	target, err := parseTarget(&grpcTarget.URL)
	if err != nil {
		return nil, err
	}
	directory, err := b.directoryOf(target)
	if err != nil {
		return nil, err
	}
	r := &watcher{
		builder: b, target: target, cc: cc,
		directory: directory.Name(),
		wake:      make(chan struct{}, 1),
		done:      make(chan struct{}),
	}
	if target.Policy != "" {
		if opts.DisableServiceConfig {
			return nil, errors.New("target key \"policy\" needs a service config, which grpc.WithDisableServiceConfig turns off: leave out one of the two")
		}
		if r.serviceConfig, err = withPolicy(cc, serviceConfig, target.Policy); err != nil {
			return nil, err
		}
	}
	queries := target.queries(b.warning)
	key := directory.Name()
	for _, q := range queries {
		key += "?" + q.Key()
		r.subscriptions = append(r.subscriptions, b.watches.subscribe(directory, q, r.wake))
	}
	r.table, r.returnTable = b.tables.borrow(key)
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go r.run(ctx)
	return r, nil
}

// directoryOf is the directory that target names, or the builder's own.
func (b *Builder) directoryOf(target Target) (catalog.Watcher, error) {
	if target.Agent == "" {
		return b.directory, nil
	}
	elsewhere, ok := b.directory.(interface {
		At(agent string) (catalog.Watcher, error)
	})
	if !ok {
		return nil, fmt.Errorf("target agent %q: %s cannot be asked elsewhere: leave the host out", target.Agent, b.directory.Name())
	}
	return elsewhere.At(target.Agent)
}

// withPolicy puts policy into a service config, over the one that stands there.
func withPolicy(cc resolver.ClientConn, config, policy string) (*serviceconfig.ParseResult, error) {
	fields := map[string]any{}
	if err := json.Unmarshal([]byte(config), &fields); err != nil {
		return nil, fmt.Errorf("service config: %w", err)
	}
	delete(fields, "loadBalancingPolicy")
	fields["loadBalancingConfig"] = []any{map[string]any{policy: struct{}{}}}
	text, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("service config: %w", err)
	}
	result := cc.ParseServiceConfig(string(text))
	return result, result.Err
}

// tables keeps the endpoint tables by target, so that a channel which comes back
// from idleness finds its own.
type tables struct {
	mu   sync.Mutex
	kept map[string]*kept
}

type kept struct {
	table    *balancer.Table
	users    int
	returned time.Time
}

// keepTable is how long a table outlives its last channel.
const keepTable = time.Hour

func (t *tables) borrow(key string) (table *balancer.Table, giveBack func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for other, k := range t.kept {
		if k.users == 0 && time.Since(k.returned) > keepTable {
			delete(t.kept, other)
		}
	}
	k := t.kept[key]
	if k == nil {
		k = &kept{table: balancer.NewTable()}
		t.kept[key] = k
	}
	k.users++
	return k.table, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		k.users--
		k.returned = time.Now()
	}
}
