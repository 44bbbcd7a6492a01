package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/guard"
)

const (
	defaultMaxBytes = 64 << 20
	minMaxBytes     = 64 << 10
)

// Option changes what [New] makes.
type Option func(*options)

type options struct {
	maxBytes uint64
	callers  *caller.Callers
	observer interceptors.Observer
	skip     func(context.Context, *interceptors.CallMeta) bool
	store    Store
	log      *slog.Logger
	errs     []error
}

// WithMaxBytes bounds the memory of keys, answers and their metadata: at least 64 KiB,
// by default 64 MiB. An entry larger than an eighth of it is not stored. About half a MiB
// for invalidations, and the counters of each method, come on top.
func WithMaxBytes(bytes uint64) Option {
	return func(o *options) { o.maxBytes = bytes }
}

// WithCallers says who calls and whom to trust. Callers with different identities never
// share a private answer, and a call without an identity is neither served from the cache
// nor stored unless its answers are public. On a server the cache-control of a request
// counts only from trusted callers, since whoever may send no-cache makes every call run
// the handler; on a client it always counts. The functions of callers may panic like a
// handler. By default the identity is the peer's verified certificate on a server, none on
// a client, and nobody is trusted.
func WithCallers(callers *caller.Callers) Option {
	return func(o *options) {
		if callers == nil {
			o.errs = append(o.errs, errors.New("WithCallers(nil): leave the option out for the defaults"))
		}
		o.callers = callers
	}
}

// WithObserver sets what receives the [Result] of every call of a method that has a cache
// rule on this side, such as a value of package interceptors/metrics.
func WithObserver(observer interceptors.Observer) Option {
	return func(o *options) { o.observer = observer }
}

// WithSkip bypasses the cache for calls for which skip returns true: they are neither
// served from it nor stored. It is called once per call, concurrently.
func WithSkip(skip func(context.Context, *interceptors.CallMeta) bool) Option {
	return func(o *options) { o.skip = skip }
}

// WithStore shares answers and invalidations with the other processes that use the same
// store, such as one of package redis. Answers with a vary header are not shared. The
// owner of the store closes it, after the cache.
func WithStore(store Store) Option { return func(o *options) { o.store = store } }

// WithLogger logs background refreshes that panic, and invalidations that did not reach other
// processes. Default, and nil: slog.Default().
func WithLogger(log *slog.Logger) Option {
	return func(o *options) { o.log = cmp.Or(log, slog.Default()) }
}

func (o *options) check() error {
	errs := o.errs
	if o.maxBytes < minMaxBytes {
		errs = append(errs, fmt.Errorf("WithMaxBytes: %d is too little to keep answers: give at least %d (64 KiB)", o.maxBytes, minMaxBytes))
	}
	return errors.Join(errs...)
}

// Cache is the caching concern of a chain. One value may serve several channels and
// servers. It is safe for concurrent use.
type Cache struct {
	options     options
	publisher   *interceptors.Publisher
	memory      *memory
	flights     flights
	methods     methods
	refreshes   *tasks
	saves       *tasks // to the store
	loads       atomic.Uint64
	keyBuffers  sync.Pool // of *[]byte
	closing     sync.Once
	unsubscribe func()
	guard       *guard.Store // of options.store

	invalidations, storeHits, storeErrors, storeLosses atomic.Uint64
}

// New makes an empty cache. An expired entry is evicted when its place is needed, not
// before. The error names every option that is wrong.
func New(opts ...Option) (*Cache, error) {
	o := options{maxBytes: defaultMaxBytes, log: slog.Default()}
	for _, option := range opts {
		option(&o)
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	memory, err := newMemory(o.maxBytes)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	c := &Cache{
		options:     o,
		publisher:   interceptors.NewPublisher(o.observer),
		memory:      memory,
		refreshes:   newTasks("a refresh", o.log),
		saves:       newTasks("the store", o.log),
		unsubscribe: func() {},
		guard:       guard.NewStore(o.store, o.log),
	}
	if o.store != nil {
		c.unsubscribe = o.store.Subscribe(c.onInvalidation)
	}
	return c, nil
}

// Close ends the background refreshes, waits for them, and frees the memory. A handler or
// a store that ignores its context is left running after 5 s, and logged. Later calls pass
// through. Close may be called more than once, but not from within a refresh. It does not
// close the store.
func (c *Cache) Close() {
	c.closing.Do(func() {
		c.memory.closed.Store(true)
		c.saves.closeSubscription(c.unsubscribe)
		c.refreshes.close()
		c.saves.close()
		c.memory.entries.InvalidateAll()
	})
}

// Closed reports whether the cache has been closed.
func (c *Cache) Closed() bool { return c.memory.closed.Load() }

// Stage is [interceptors.Cache].
func (c *Cache) Stage() interceptors.Stage { return interceptors.Cache }

// UnaryClient is the interceptor for calls of one method, nil where the policy neither
// caches nor invalidates on the client.
func (c *Cache) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	return c.In("").UnaryClient(meta)
}

// UnaryServer is the interceptor for one method's handler, nil where the policy neither
// caches nor invalidates on the server.
func (c *Cache) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	return c.In("").UnaryServer(meta)
}

// UnaryClientInterceptor is the cache for use without a chain. It panics without policies.
func (c *Cache) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, c).UnaryClient()
}

// UnaryServerInterceptor is the cache for use without a chain. It must run after whatever
// authorizes calls. It panics without policies.
func (c *Cache) UnaryServerInterceptor(policies *interceptors.Policies) grpc.UnaryServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, c).UnaryServer()
}

// Scoped is a cache whose answers are shared only within one scope. It is a concern like
// the cache itself.
type Scoped struct {
	cache *Cache
	scope string
}

// In returns c for one scope. Servers that share a cache need a scope each, since their
// handlers may answer differently; so do channels whose targets have the same name and
// mean different things.
func (c *Cache) In(scope string) *Scoped { return &Scoped{c, scope} }

// Stage is [interceptors.Cache].
func (s *Scoped) Stage() interceptors.Stage { return interceptors.Cache }

// UnaryClient is the interceptor for calls of one method, nil where the policy neither
// caches nor invalidates on the client.
func (s *Scoped) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	if i := newInvalidation(s.cache, meta); i != nil {
		return i.client
	}
	if r := newRule(s.cache, s.scope, meta); r != nil {
		return clientPart{r}.call
	}
	return nil
}

// UnaryServer is the interceptor for one method's handler, nil where the policy neither
// caches nor invalidates on the server.
func (s *Scoped) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	if i := newInvalidation(s.cache, meta); i != nil {
		return i.server
	}
	if r := newRule(s.cache, s.scope, meta); r != nil {
		return serverPart{r}.handle
	}
	return nil
}
