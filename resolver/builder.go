package resolver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// DefaultServiceConfig chooses least request or, where that package is not
// imported, gRPC's round robin.
const DefaultServiceConfig = `{"loadBalancingConfig": [{"meshlite_least_request": {}}, {"round_robin": {}}]}`

// DialOptions make a grpc.NewClient resolve consul:/// targets in directory. They
// are the builder, a policy for channels whose owner names none (a service config
// that comes after them wins), and grpc.WithNoProxy: with HTTPS_PROXY set gRPC
// would replace all endpoints by the address of the proxy.
func DialOptions(directory catalog.Watcher, opts ...Option) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithResolvers(NewBuilder(directory, opts...)),
		grpc.WithNoProxy(),
		grpc.WithDefaultServiceConfig(DefaultServiceConfig),
	}
}

// Builder makes resolvers that share their watches and what is learned of
// endpoints. It is a [resolver.Builder] of gRPC and safe for concurrent use.
type Builder struct {
	settings
	directory catalog.Watcher
	watches   *watches
	tables    *tables
}

// NewBuilder makes a builder over directory.
func NewBuilder(directory catalog.Watcher, opts ...Option) *Builder {
	b := &Builder{
		directory: directory,
		settings:  defaults(),
		watches:   newWatches(),
		tables:    &tables{kept: map[string]*kept{}},
	}
	return b.With(opts...)
}

// With is b for channels with other settings. Both share their watches.
func (b *Builder) With(opts ...Option) *Builder {
	other := *b
	for _, o := range opts {
		o(&other.settings)
	}
	return &other
}

// Idle reports whether no channel uses b now: all are closed or idle.
func (b *Builder) Idle() bool {
	b.watches.mu.Lock()
	defer b.watches.mu.Unlock()
	return len(b.watches.open) == 0
}

// Scheme is [Scheme].
func (b *Builder) Scheme() string { return Scheme }

// OverrideAuthority is the name that instances prove under TLS where the channel's
// owner names none, by WithAuthority or in the transport credentials: the service. An
// address with a ServerName would take precedence over the credentials.
func (b *Builder) OverrideAuthority(target resolver.Target) string {
	return url.PathEscape(strings.Trim(target.URL.Path, "/"))
}

// bundledName is what a credentials.Bundle pins. gRPC takes only the names of
// transport credentials that stand alone for the authority.
func bundledName(opts resolver.BuildOptions) string {
	if opts.CredsBundle == nil || opts.CredsBundle.TransportCredentials() == nil {
		return ""
	}
	//lint:ignore SA1019 it is where gRPC itself looks for a name that credentials pin
	return opts.CredsBundle.TransportCredentials().Info().ServerName
}

// Build starts a resolver. gRPC calls it.
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
	r := &watcher{
		builder: b, target: target, cc: cc,
		directory: directory.Name(),
		pinned:    bundledName(opts),
		wake:      make(chan struct{}, 1),
		done:      make(chan struct{}),
	}
	if target.Policy != "" {
		if opts.DisableServiceConfig {
			return nil, errors.New("target key \"policy\" needs a service config, which grpc.WithDisableServiceConfig turns off: leave out one of the two")
		}
		if r.serviceConfig, err = withPolicy(cc, b.serviceConfig, target.Policy); err != nil {
			return nil, err
		}
	}
	queries := target.queries(b.warning)
	for _, q := range queries {
		r.sources = append(r.sources, b.watches.subscribe(directory, q, b.settings, r.wake))
	}
	r.table, r.returnTable = b.tables.borrow(directory.Name(), queries, b.log.With("service", target.Service))
	r.subset = subset{size: b.subset, seed: b.watches.seed, near: target.Near != "", table: r.table, wake: r.wake}
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
	if err := json.Unmarshal([]byte(config), &fields); err != nil || fields == nil {
		return nil, fmt.Errorf("service config %q: write a JSON object", config)
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
