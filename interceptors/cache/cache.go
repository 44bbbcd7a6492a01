package cache

import (
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"

	"github.com/maypok86/otter/v2"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/guard"
)

// Cache is the concern of kept answers. One value may serve several channels and
// servers. It is safe for concurrent use.
type Cache struct {
	options     options
	maxEntry    uint64
	entries     *otter.Cache[string, *entry]
	generations *generations
	flights     flights
	refreshes   *tasks
	saves       *tasks
	loads       atomic.Uint64
	methods     methods
	buffers     sync.Pool // of *[]byte, for keys
	closed      atomic.Bool
	closing     sync.Once
	unsubscribe func()
	store       *guard.Store

	evicted, invalidations, storeHits, storeErrors, storeLosses atomic.Uint64
}

// New makes an empty cache. An entry whose time is over goes when its place is needed. The
// error names every option that is wrong.
func New(opts ...Option) (*Cache, error) {
	o := options{maxBytes: defaultMaxBytes, log: slog.Default()}
	for _, option := range opts {
		option(&o)
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	c := &Cache{
		options:     o,
		maxEntry:    min(o.maxBytes/8, math.MaxUint32),
		generations: newGenerations(),
		refreshes:   newTasks("a refresh", o.log),
		saves:       newTasks("the store", o.log),
		buffers:     sync.Pool{New: func() any { b := make([]byte, 0, 256); return &b }},
		unsubscribe: func() {},
		store:       guard.NewStore(o.store, o.log),
	}
	var err error
	c.entries, err = otter.New(&otter.Options[string, *entry]{
		MaximumWeight:    o.maxBytes,
		Weigher:          func(_ string, e *entry) uint32 { return e.weight },
		OnAtomicDeletion: c.gone,
		// In the goroutine that stores: entries are given up before more are taken
		// in, and no goroutine outlives the call that it works for.
		Executor: func(task func()) { task() },
	})
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if o.store != nil {
		c.unsubscribe = o.store.Subscribe(c.told)
	}
	return c, nil
}

// gone counts an answer that is kept no longer.
func (c *Cache) gone(event otter.DeletionEvent[string, *entry]) {
	event.Value.method.gone(event.Value)
	if event.WasEvicted() {
		c.evicted.Add(1)
	}
}

// told is what other processes have invalidated; nil is that nobody knows what.
func (c *Cache) told(subjects []string) {
	if len(subjects) == 0 {
		c.storeLosses.Add(1)
	}
	c.forget(subjects)
}

// Close ends the refreshes that are under way, waits for them, and gives the memory back.
// A handler or a store that does not heed its context is left running after 5 s, and logged. Calls that follow pass through. It may
// be called more than once, and not by what a refresh runs. It does not close the store.
func (c *Cache) Close() {
	c.closing.Do(func() {
		c.closed.Store(true)
		c.saves.closeSubscription(c.unsubscribe)
		c.refreshes.close()
		c.saves.close()
		c.entries.InvalidateAll()
	})
}

// Closed reports whether the cache has been closed.
func (c *Cache) Closed() bool { return c.closed.Load() }

// Stage is [interceptors.Cache].
func (c *Cache) Stage() interceptors.Stage { return interceptors.Cache }

// UnaryClient is the cache's part in calls of one method, nil where the policy
// caches nothing on the client.
func (c *Cache) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	return c.In("").UnaryClient(meta)
}

// UnaryServer is the cache's part in handling one method, nil where the policy
// caches nothing on the server.
func (c *Cache) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	return c.In("").UnaryServer(meta)
}

// UnaryClientInterceptor is the cache for use alone, without a chain of concerns.
// It panics without policies.
func (c *Cache) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, c).UnaryClient()
}

// UnaryServerInterceptor is the cache for use alone, without a chain of concerns.
// It must run inside of whatever decides who may call. It panics without policies.
func (c *Cache) UnaryServerInterceptor(policies *interceptors.Policies) grpc.UnaryServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, c).UnaryServer()
}
