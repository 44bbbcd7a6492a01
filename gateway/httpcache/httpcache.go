// Package httpcache is a shared HTTP cache (RFC 9111) in memory, as a transport: what the
// gateway puts before a plain HTTP site.
//
//	cache, err := httpcache.New(httpcache.Config{})
//	proxy, err := httpproxy.New(httpproxy.Config{..., Wrap: cache.Transport})
//
// It stores complete answers to GET whose Cache-Control or Expires allows it, and answers GET and
// HEAD from them: with Age, by Vary, with 304 to a condition that holds. What is stale is
// validated with the site; meanwhile or instead of an error it is used as far as
// stale-while-revalidate and stale-if-error say (RFC 5861). Requests at the same time for what
// is not stored are one request. Unsafe methods invalidate (section 4.4). Each answer has a
// Cache-Status (RFC 9211).
//
// More careful than the RFC: a cookie is an identity as Authorization is, since a site that was
// alone may say max-age of a page for one user; an answer with Set-Cookie or a trailer is not
// stored; and freshness is never guessed, unless Config.Duration does. Ranges pass. Of requests,
// no-store and only-if-cached are obeyed, and those directives that cost the site work (no-cache,
// max-age, min-fresh) only of trusted callers; max-stale is ignored.
//
// Written here, since the libraries that exist (bartventer/httpcache, sandrolain/httpcache, after
// gregjones/httpcache) are private caches of one client.
package httpcache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// Config is how a cache works. The zero value is good.
type Config struct {
	// MaxBytes of memory hold all answers. Default: 64 MiB.
	MaxBytes uint64
	// MaxBody is the largest body that is stored, in bytes, an eighth of MaxBytes at most. Larger
	// ones pass. Default: 1 MiB.
	MaxBody int64

	// Duration is how long an answer is fresh that does not say so, and has a status that may be
	// cached by default (RFC 9110, section 15.1). It does not apply to requests with an identity.
	// Default: 0, which is never.
	Duration time.Duration
	// StaleWhileRevalidate and StaleIfError apply to answers that do not have these directives.
	// Default: 0.
	StaleWhileRevalidate time.Duration
	StaleIfError         time.Duration

	// Include, if not empty, is the statuses that may be stored, Exclude those that may not.
	Include, Exclude []int
	// Store, if not nil, also decides whether an answer may be stored.
	Store func(*http.Request, *http.Response) bool
	// Skip, if not nil, passes a request without the cache.
	Skip func(*http.Request) bool
	// Trusted callers may make the cache validate or fetch, by no-cache, max-age and min-fresh.
	// Default: nobody.
	Trusted func(*http.Request) bool
	// Key adds to the key of an answer, beside host, scheme and URL: the destination of a request
	// that is routed, such as httpproxy.Destination. An answer is not stored if it is another one
	// after the request was sent than before.
	Key func(*http.Request) string
	// Groups of an answer are invalidated together by [Cache.Invalidate].
	Groups func(*http.Request, *http.Response) []string
	// DropHeaders are not stored.
	DropHeaders []string
	// SetHeaders replace those of answers that can be stored, for clients only: they do not
	// change what the cache does.
	SetHeaders http.Header
	// IdentityHeaders are those by which the site identifies callers. An answer to a request with one
	// is stored only if it is public, must-revalidate or has s-maxage (section 3.5). Default:
	// Authorization, Proxy-Authorization, Cookie and X-Meshlite-Subject.
	IdentityHeaders []string
	// Name is this cache in Cache-Status. Default: "meshlite".
	Name string
}

const (
	refreshTimeout  = 30 * time.Second // of a validation in the background
	maxRefreshes    = 64               // at once
	failureRest     = time.Second      // before a site that has failed to validate an answer is asked again
	passTime        = 10 * time.Second // that requests are not coalesced after an answer that was not stored
	invalidateSlots = 1 << 16
)

// Cache is a cache. It may serve several sites, and is safe for concurrent use.
type Cache struct {
	config  Config
	entries *otter.Cache[string, *entry]

	// Invalidations are counted by the hash of a URL or group. An entry is valid while the counts
	// are those of the time when its request was sent.
	slots  [invalidateSlots]slot
	all    atomic.Uint64
	groups atomic.Uint64 // invalidations of any group

	mu      sync.Mutex
	flights map[string]*flight
	closed  bool

	refreshes sync.WaitGroup
	refresh   chan struct{} // holds one for each
	ctx       context.Context
	cancel    context.CancelFunc

	counts counters
}

// slot counts the invalidations of all names with one hash.
type slot struct {
	count atomic.Uint64
	used  atomic.Bool // something with such a name was fetched since the last one
}

type counters struct{ hits, stale, validated, misses, passed, coalesced, stored, evicted, invalidations atomic.Uint64 }

// New makes a cache. Close it.
func New(config Config) (*Cache, error) {
	if config.MaxBytes == 0 {
		config.MaxBytes = 64 << 20
	}
	if config.MaxBody == 0 {
		config.MaxBody = int64(min(1<<20, config.MaxBytes/8))
	}
	if len(config.IdentityHeaders) == 0 {
		config.IdentityHeaders = []string{"Authorization", "Proxy-Authorization", "Cookie", "X-Meshlite-Subject"}
	}
	if config.Name == "" {
		config.Name = "meshlite"
	}
	if err := config.check(); err != nil {
		return nil, err
	}
	c := &Cache{config: config, flights: map[string]*flight{}, refresh: make(chan struct{}, maxRefreshes)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	var err error
	c.entries, err = otter.New(&otter.Options[string, *entry]{
		MaximumWeight: config.MaxBytes,
		Weigher:       func(key string, e *entry) uint32 { return e.weight(key) },
		OnAtomicDeletion: func(event otter.DeletionEvent[string, *entry]) {
			if event.WasEvicted() {
				c.counts.evicted.Add(1)
			}
		},
		Executor: func(task func()) { task() }, // no goroutine outlives its request
	})
	if err != nil {
		return nil, fmt.Errorf("httpcache: %w", err)
	}
	return c, nil
}

func (c *Config) check() error {
	switch {
	case c.MaxBytes < 1<<16 || c.MaxBytes > 1<<40:
		return fmt.Errorf("httpcache: MaxBytes %d is not in 65536 to 1 TiB", c.MaxBytes)
	case c.MaxBody < 1 || uint64(c.MaxBody) > c.MaxBytes/8 || c.MaxBody > math.MaxUint32/2:
		return fmt.Errorf("httpcache: MaxBody %d is not in 1 to %d, an eighth of MaxBytes", c.MaxBody, c.MaxBytes/8)
	case c.Duration < 0 || c.StaleWhileRevalidate < 0 || c.StaleIfError < 0:
		return errors.New("httpcache: Duration, StaleWhileRevalidate or StaleIfError is negative: write 0 for none")
	}
	for _, status := range slices.Concat(c.Include, c.Exclude) {
		if status < 200 || status > 599 {
			return fmt.Errorf("httpcache: status %d in Include or Exclude is not in 200 to 599", status)
		}
	}
	return nil
}

// Transport answers from the cache, and sends what it cannot answer to next.
func (c *Cache) Transport(next http.RoundTripper) http.RoundTripper { return &transport{c, next} }

// Invalidate drops the answers of groups.
func (c *Cache) Invalidate(groups ...string) {
	for _, group := range groups {
		c.groups.Add(1)
		c.bump("group " + group)
	}
}

// InvalidateURL drops the answers of a path with its query at a host, as the transport sees
// them, in all their variants.
func (c *Cache) InvalidateURL(host, pathAndQuery string) { c.bump(urlKey(host, pathAndQuery)) }

// Clear drops all answers.
func (c *Cache) Clear() {
	c.counts.invalidations.Add(1)
	c.all.Add(1)
	c.entries.InvalidateAll()
}

func (c *Cache) bump(name string) {
	c.counts.invalidations.Add(1)
	if s := &c.slots[slotOf(name)]; s.used.Swap(false) { // a site may have many POSTs to what is never cached
		s.count.Add(1)
	}
}

// Close ends validations in the background and drops all answers.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.refreshes.Wait()
	c.entries.InvalidateAll()
}

// Stats are the counters of a cache since it was made, and what it holds. The gateway exports
// them as the metrics that are named here.
type Stats struct {
	Hits          uint64 `json:"hits"`          // answered, fresh: meshlite_http_cache_requests_total{result="hit"}
	Stale         uint64 `json:"stale"`         // answered, stale: {result="stale"}
	Validated     uint64 `json:"validated"`     // answered after the site confirmed it: {result="validated"}
	Misses        uint64 `json:"misses"`        // fetched: {result="miss"}
	Passed        uint64 `json:"passed"`        // without the cache: {result="pass"}
	Coalesced     uint64 `json:"coalesced"`     // answered by the fetch of another request: {result="coalesced"}
	Stored        uint64 `json:"stored"`        // meshlite_http_cache_stored_total
	Evicted       uint64 `json:"evicted"`       // for lack of room: meshlite_http_cache_evicted_total
	Invalidations uint64 `json:"invalidations"` // meshlite_http_cache_invalidations_total
	Bytes         uint64 `json:"bytes"`         // meshlite_http_cache_bytes
	Entries       int    `json:"entries"`       // meshlite_http_cache_entries
}

// HitRate is the part of the answers that needed no fetch, of those that the cache could give.
func (s Stats) HitRate() float64 {
	good := s.Hits + s.Stale + s.Coalesced
	return float64(good) / float64(max(good+s.Validated+s.Misses, 1))
}

// Stats returns the counters.
func (c *Cache) Stats() Stats {
	n := &c.counts
	return Stats{
		Hits: n.hits.Load(), Stale: n.stale.Load(), Validated: n.validated.Load(), Misses: n.misses.Load(), Passed: n.passed.Load(),
		Coalesced: n.coalesced.Load(), Stored: n.stored.Load(), Evicted: n.evicted.Load(), Invalidations: n.invalidations.Load(),
		Bytes: c.entries.WeightedSize(), Entries: c.entries.EstimatedSize(),
	}
}

// Entry is one stored answer.
type Entry struct {
	Host   string        `json:"host"`
	URL    string        `json:"url"` // path and query
	Status int           `json:"status"`
	Bytes  int           `json:"bytes"`
	Age    time.Duration `json:"age"`
	Left   time.Duration `json:"left"` // of its freshness; negative is stale
	Groups []string      `json:"groups,omitempty"`
}

// Index returns up to most stored answers that are valid, in no order.
func (c *Cache) Index(most int) []Entry {
	list := []Entry{}
	now := time.Now()
	for _, e := range c.entries.All() {
		if len(list) >= most {
			break
		}
		if e.response && c.valid(e) {
			age := e.age(now)
			list = append(list, Entry{e.host, e.uri, e.status, len(e.body), age, e.freshFor - age, e.groups})
		}
	}
	return list
}
