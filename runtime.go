package meshlite

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/admin"
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/authz"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	"github.com/meshlite-go/meshlite/interceptors/metrics"
	"github.com/meshlite-go/meshlite/interceptors/mirror"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	"github.com/meshlite-go/meshlite/internal/cachepage"
	"github.com/meshlite-go/meshlite/internal/explain"
	"github.com/meshlite-go/meshlite/internal/limitspage"
	"github.com/meshlite-go/meshlite/internal/weakset"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// Runtime is what the channels and servers of a program share: one watch for each query
// to Consul, the statistics of endpoints, one cache, one registry of metrics. Watches end
// with the last channel that needs them; the rest is memory, and bounded. It is safe for concurrent use.
type Runtime struct {
	registry    *prometheus.Registry
	beside      prometheus.Registerer // the program's own, which has registry as a collector, or nil
	callers     *caller.Callers
	network     Network
	metrics     *metrics.Metrics
	caches      *cachepage.Caches
	limits      *limitspage.Limits         // with what bounds the handlers of all servers
	retries     weakset.Set[retry.Retry]   // of channels
	routers     weakset.Set[routes.Router] // of channels
	routed      weakset.Set[routes.Set]    // of what is no channel
	mirrors     weakset.Set[mirror.Mirror] // of channels
	channels    channels                   // to services
	callStreams bool
	off         turnedOff
	mutual      weakset.Set[identity.Credentials]
	authorizers weakset.Set[authz.Authorizer] // of servers

	mu        sync.Mutex
	directory *consul.Directory // of the environment, made when first needed
	sites     map[Directory]*site
	lastSite  int
}

// site is what the channels to one directory share.
type site struct {
	builder *resolver.Builder
	// mirrors is for copies of calls: what they measure of endpoints is not that of calls.
	mirrors *resolver.Builder
	scope   string // keeps its cached answers from those of other directories
}

// maxSites caps the directories whose channels share. Beyond it, one that no
// channel uses is evicted.
const maxSites = 64

var defaultRuntime = sync.OnceValue(func() *Runtime {
	r, err := NewRuntime(RuntimeConfig{})
	if err != nil {
		panic(err) // the defaults are right
	}
	return r
})

// DefaultRuntime is what channels and servers share unless they are given
// another.
func DefaultRuntime() *Runtime { return defaultRuntime() }

// RuntimeConfig is what a [Runtime] is made of. The zero value has the defaults.
type RuntimeConfig struct {
	// Registerer receives the metrics of the runtime beside a program's own: such as
	// [prometheus.DefaultRegisterer], which then has all of them on one page. So does the
	// page of [Runtime.Handler] if Registerer can be gathered from. A name that it has
	// already is an error. Default: the metrics are in [Runtime.Registry] alone.
	Registerer prometheus.Registerer

	// Callers identifies who calls and decides whom to trust, for all that channels and
	// servers of the runtime make: its cache and its concurrency limiter, their rate
	// limiters, and the lines of their logs. What is given by [WithCache], [WithRateLimit]
	// or [WithConcurrency] has callers of its own. Default: those of package caller, by
	// which callers are who their certificates prove and nobody is trusted.
	Callers *caller.Callers

	// CallStreams has unary calls share streams that stay open, where both ends do: a small call
	// costs little more than half. docs/call-streams.md has what differs. MESHLITE_CALL_STREAMS=true does
	// the same from outside. Default: each call has its own stream, as gRPC has it.
	CallStreams bool

	// Network replaces TCP, for tests. Default: TCP.
	Network Network
}

// NewRuntime makes a runtime of its own, for programs that say who their callers are, that
// have metrics of their own or keep parts of themselves apart, and for tests.
func NewRuntime(config RuntimeConfig) (*Runtime, error) {
	r := &Runtime{
		registry: prometheus.NewRegistry(), beside: config.Registerer,
		callers: cmp.Or(config.Callers, new(caller.Callers)), network: cmp.Or[Network](config.Network, &tcp{}), callStreams: config.CallStreams, sites: map[Directory]*site{},
	}
	var err error
	if r.metrics, err = metrics.New(metrics.WithRegisterer(r.registry)); err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	limiter, err := concurrency.New(concurrency.WithCallers(r.callers), concurrency.WithObserver(r.metrics))
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	r.limits = limitspage.New(limiter)
	own, err := cache.New(cache.WithCallers(r.callers), cache.WithObserver(r.metrics))
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	r.caches = cachepage.New(own)
	if err := r.register(); err != nil {
		own.Close()
		return nil, err
	}
	return r, nil
}

// Registry is where the metrics are, and where others can be added. It has no go_* and
// process_* of its own, so that it can be gathered beside another: [Runtime.Handler] adds
// them where nobody has them.
func (r *Runtime) Registry() *prometheus.Registry { return r.registry }

// Cache keeps the answers of all channels and servers that have not been given one by
// [WithCache]. Invalidate it where something changes that no policy declares.
func (r *Runtime) Cache() *cache.Cache { return r.caches.Own() }

// Handler serves /metrics, /healthz and /debug/meshlite, where caches can be cleared, too. A
// [Server] serves it by itself; a program that is only a client calls this. The debug page is
// for requests with the token of MESHLITE_ADMIN_TOKEN or a line of MESHLITE_ADMIN_TOKEN_FILE,
// or as one of MESHLITE_ADMIN_IDENTITIES, or for loopback if none is set: package admin has the rule. Requests over TCP call the
// host by an IP address, by localhost or by one of hosts, but for /metrics, /healthz and
// /readyz.
func (r *Runtime) Handler(hosts ...string) (http.Handler, error) {
	return r.handler(admin.WithHosts(hosts...))
}

// AdminHandler is [Runtime.Handler] with further parts of the program, such as its readiness,
// the statistics of what it has beside channels (admin.WithStats), or who may see the debug
// page (admin.WithToken, admin.WithIdentities).
func (r *Runtime) AdminHandler(options ...admin.Option) (http.Handler, error) {
	return r.handler(options...)
}

// handler also serves what a server adds.
func (r *Runtime) handler(server ...admin.Option) (http.Handler, error) {
	options, err := adminAccess()
	if err != nil {
		return nil, err
	}
	options = append(options,
		admin.WithGatherer(r.page()),
		admin.WithStats("authorization", func() any { return r.authorized() }),
		admin.WithStats("cache", func() any { return r.caches.Page() }),
		admin.WithStats("concurrency", func() any { return r.limits.ConcurrencyPage() }),
		admin.WithStats("disabled", func() any { return r.off.names() }),
		admin.WithStats("discovery", func() any { return r.watches() }),
		admin.WithStats("endpoints", func() any { return r.picks() }),
		admin.WithStats("identity", func() any { return r.identities() }),
		admin.WithStats("mirrors", func() any { return r.mirrored() }),
		admin.WithStats("routes", func() any { return r.routes() }),
		admin.WithStats("limits", func() any { return r.limits.Page() }),
		admin.WithAction(explain.Action, "what would happen to a call of method to target, with metadata (key:value, repeats) and data (JSON), and why", r.channels.explain),
		admin.WithAction(cachepage.ClearAction, "drop answers of method, of tag, or all=true, everywhere or in cache", r.caches.Clear))
	return admin.New(append(options, server...)...)
}

// consul is the directory that the environment names.
func (r *Runtime) consul() (*consul.Directory, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.directory == nil {
		log, err := levelled(slog.Default())
		if err != nil {
			return nil, err
		}
		directory, err := consul.New(consul.Config{Logger: log})
		if err != nil {
			return nil, fmt.Errorf("meshlite: %w", err)
		}
		r.directory = directory
	}
	return r.directory, nil
}

// site is what channels to directory share.
func (r *Runtime) site(directory Directory) *site {
	r.mu.Lock()
	defer r.mu.Unlock()
	if shared := r.sites[directory]; shared != nil {
		return shared
	}
	for other, s := range r.sites {
		if len(r.sites) >= maxSites && s.builder.Idle() && s.mirrors.Idle() {
			delete(r.sites, other)
		}
	}
	r.lastSite++
	made := &site{resolver.NewBuilder(directory), resolver.NewBuilder(directory), fmt.Sprintf("site %d", r.lastSite)}
	if len(r.sites) < maxSites {
		r.sites[directory] = made
	}
	return made
}

// watches are the figures of all watches.
func (r *Runtime) watches() []resolver.Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []resolver.Stats
	for _, s := range r.sites {
		all = append(append(all, s.builder.Stats()...), s.mirrors.Stats()...)
	}
	return all
}

// picks are the figures of all balancers.
func (r *Runtime) picks() []resolver.Picks {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := []resolver.Picks{}
	for _, s := range r.sites {
		all = append(all, s.builder.Picks()...)
	}
	return all
}

// identities are the figures of the credentials that channels and servers use.
func (r *Runtime) identities() []identity.Stats {
	all := []identity.Stats{}
	for _, credentials := range r.mutual.All() {
		all = append(all, credentials.Stats())
	}
	return all
}

// routes are the chains that channels go by, and what of them is alive.
func (r *Runtime) routes() []routes.Stats {
	all := []routes.Stats{}
	for _, router := range r.routers.All() {
		all = append(all, router.Stats())
	}
	for _, set := range r.routed.All() {
		all = append(all, set.Stats())
	}
	return all
}

// AddRoutes adds to the routes that metrics and the admin page show those of what is no channel,
// such as a gateway's plain HTTP services, while set is in use.
func (r *Runtime) AddRoutes(set *routes.Set) { r.routed.Add(set) }

// RoutingDisabled reports whether MESHLITE_DISABLE turns discovery chains off, and records so.
// Channels read it by themselves.
func (r *Runtime) RoutingDisabled(log *slog.Logger) (bool, error) {
	off, err := readKills()
	if err != nil {
		return false, err
	}
	off = slices.DeleteFunc(off, func(k kill) bool { return k.stage != interceptors.Routing })
	r.off.note(off, log)
	return len(off) > 0, nil
}

// mirrored is what became of the copies of calls of channels.
func (r *Runtime) mirrored() []mirror.Stats {
	all := []mirror.Stats{}
	for _, one := range r.mirrors.All() {
		all = append(all, one.Stats()...)
	}
	return all
}

// agents are the figures of the requests to all agents.
func (r *Runtime) agents() []consul.Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []consul.Stats
	for directory := range r.sites {
		if asked, ok := directory.(interface{ Stats() []consul.Stats }); ok {
			all = append(all, asked.Stats()...)
		}
	}
	return all
}

// authorized are the figures of what authorizes the calls of servers.
func (r *Runtime) authorized() []authz.Stats {
	all := []authz.Stats{}
	for _, one := range r.authorizers.All() {
		all = append(all, one.Stats())
	}
	return all
}

// newScope is one that no other server or site has.
func (r *Runtime) newScope() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastSite++
	return fmt.Sprintf("server %d", r.lastSite)
}
