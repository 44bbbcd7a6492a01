package cache

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// Result is what the cache did for a call.
type Result uint8

const (
	// Hit is a call answered from the cache.
	Hit Result = iota + 1
	// Miss is a call whose answer was not there, or no longer fresh.
	Miss
	// Coalesced is a call that was answered with the answer, or the failure, of a concurrent
	// identical call.
	Coalesced
	// Stale is a call that was answered with an answer past its ttl: after an outage, while
	// a newer one is fetched, or because the caller accepts that.
	Stale
	// Bypass is a call of a cached method that passed by the cache: the caller has no
	// identity or sends no-store, WithSkip says so, call options change who calls, the
	// request has unknown fields or is no protobuf message, or the cache is closed.
	Bypass
	// ShadowHit is a call in shadow mode whose answer equals the one in the cache.
	ShadowHit
	// ShadowStale is a call in shadow mode whose answer differs from the one in the cache.
	ShadowStale
)

var resultNames = [...]string{Hit: "hit", Miss: "miss", Coalesced: "coalesced", Stale: "stale", Bypass: "bypass", ShadowHit: "shadow_hit", ShadowStale: "shadow_stale"}

// String is "hit", "miss", "coalesced", "stale", "bypass", "shadow_hit" or "shadow_stale".
func (r Result) String() string {
	if int(r) < len(resultNames) && r > 0 {
		return resultNames[r]
	}
	return fmt.Sprintf("result %d", uint8(r))
}

// Stage is [interceptors.Cache].
func (Result) Stage() interceptors.Stage { return interceptors.Cache }

// Result is [Result.String].
func (r Result) Result() string { return r.String() }

// Served reports whether the cache answered the call in place of a server or handler.
func (r Result) Served() bool { return r == Hit || r == Coalesced || r == Stale }

// report records the result of the call of x.
func (r *rule) report(ctx context.Context, x *exchange, result Result) {
	interceptors.Note(ctx, r.meta, func(h *hop.Hop) { h.Cache = x.explain(result) })
	r.method.results.add(result)
	if result != Bypass {
		r.method.recent.add(result.Served(), time.Now())
	}
	r.cache.publisher.Publish(ctx, r.meta, result)
}

// Counts are calls by their result, and what else was done for a method.
type Counts struct {
	Hits        uint64 `json:"hits"`
	Misses      uint64 `json:"misses"`
	Coalesced   uint64 `json:"coalesced"`
	Stale       uint64 `json:"stale"`
	Bypassed    uint64 `json:"bypassed"`
	ShadowHits  uint64 `json:"shadow_hits"`
	ShadowStale uint64 `json:"shadow_stale"`

	Stored            uint64 `json:"stored"`    // answers
	Refreshed         uint64 `json:"refreshed"` // answers, in the background
	RefreshesFailed   uint64 `json:"refreshes_failed"`
	IgnoredDirectives uint64 `json:"ignored_directives"` // calls whose cache-control was ignored, since the caller is not trusted
}

// counters count for one method.
type counters struct {
	results                                   [len(resultNames)]atomic.Uint64
	stored, refreshes, failedRefresh, ignored atomic.Uint64
}

func (c *counters) add(result Result) { c.results[result].Add(1) }

func (c *counters) refreshed(failed bool) {
	if failed {
		c.failedRefresh.Add(1)
	} else {
		c.refreshes.Add(1)
	}
}

// addTo adds to sum. The counters are read one after the other, not at one moment.
func (c *counters) addTo(sum *Counts) {
	for result, of := range map[Result]*uint64{
		Hit: &sum.Hits, Miss: &sum.Misses, Coalesced: &sum.Coalesced, Stale: &sum.Stale,
		Bypass: &sum.Bypassed, ShadowHit: &sum.ShadowHits, ShadowStale: &sum.ShadowStale,
	} {
		*of += c.results[result].Load()
	}
	sum.Stored += c.stored.Load()
	sum.Refreshed += c.refreshes.Load()
	sum.RefreshesFailed += c.failedRefresh.Load()
	sum.IgnoredDirectives += c.ignored.Load()
}

// Stats are the figures of a cache since it was made.
type Stats struct {
	Entries  int    `json:"entries"` // answers in memory, about
	Bytes    uint64 `json:"bytes"`   // of them, about
	MaxBytes uint64 `json:"max_bytes"`
	Counts
	Evicted       uint64 `json:"evicted"`       // answers, to make room
	Invalidations uint64 `json:"invalidations"` // by this process
	StoreHits     uint64 `json:"store_hits"`
	StoreErrors   uint64 `json:"store_errors"`
	StoreLosses   uint64 `json:"store_losses"` // invalidations may have been missed
}

// Stats reads the figures one after the other, not at one moment.
func (c *Cache) Stats() Stats {
	s := Stats{
		Evicted:       c.memory.evicted.Load(),
		Invalidations: c.invalidations.Load(),
		StoreHits:     c.storeHits.Load(),
		StoreErrors:   c.storeErrors.Load(),
		StoreLosses:   c.storeLosses.Load(),
		Entries:       c.memory.entries.EstimatedSize(),
		Bytes:         c.memory.entries.WeightedSize(),
		MaxBytes:      c.options.maxBytes,
	}
	for _, m := range c.methods.all() {
		m.results.addTo(&s.Counts)
	}
	return s
}

// MethodStats are the figures of one method.
type MethodStats struct {
	Method  string `json:"method"` // "package.Service/Method"; "" is all those beyond the first 4,096
	Entries int64  `json:"entries"`
	Bytes   int64  `json:"bytes"`
	Counts
	// LastMinute, Last5Minutes and Last15Minutes leave out bypassed calls.
	LastMinute    Rate          `json:"last_minute"`
	Last5Minutes  Rate          `json:"last_5_minutes"`
	Last15Minutes Rate          `json:"last_15_minutes"`
	Shadow        []ShadowStats `json:"shadow"` // in shadow mode
}

// ShadowStats are how many answers would have been served up to an age, and how many of
// them would have been outdated: what a ttl of that age costs.
type ShadowStats struct {
	UpTo     time.Duration `json:"up_to_ns"` // 0 is any age
	Compared uint64        `json:"compared"`
	Changed  uint64        `json:"changed"`
}

// Methods reads the figures of all methods that were called, by name.
func (c *Cache) Methods() []MethodStats {
	now := time.Now()
	var all []MethodStats
	for _, m := range c.methods.all() {
		s := MethodStats{
			Method: m.name, Entries: m.entries.Load(), Bytes: m.bytes.Load(),
			LastMinute:    m.recent.over(time.Minute, now),
			Last5Minutes:  m.recent.over(5*time.Minute, now),
			Last15Minutes: m.recent.over(15*time.Minute, now),
			Shadow:        m.shadow.stats(),
		}
		m.results.addTo(&s.Counts)
		if s.Counts != (Counts{}) || s.Entries > 0 {
			all = append(all, s)
		}
	}
	return all
}

// shadowAges are the bounds by which shadow mode counts ages: candidates for a ttl.
var shadowAges = [...]time.Duration{time.Second, 5 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}

// shadowCounts count answers in shadow mode by the age at which they would have been served;
// the last is above all bounds.
type shadowCounts [len(shadowAges) + 1]struct{ compared, changed atomic.Uint64 }

func (c *shadowCounts) add(age time.Duration, changed bool) {
	i := 0
	for i < len(shadowAges) && age > shadowAges[i] {
		i++
	}
	c[i].compared.Add(1)
	if changed {
		c[i].changed.Add(1)
	}
}

// stats is nil where nothing was compared.
func (c *shadowCounts) stats() []ShadowStats {
	var all []ShadowStats
	var sum ShadowStats
	for i := range c {
		sum.UpTo = 0
		if i < len(shadowAges) {
			sum.UpTo = shadowAges[i]
		}
		sum.Compared += c[i].compared.Load()
		sum.Changed += c[i].changed.Load()
		all = append(all, sum)
	}
	if sum.Compared == 0 {
		return nil
	}
	return all
}

// maxIndex caps an index. While one is made, nothing can be stored.
const maxIndex = 1000

// IndexEntry describes one stored answer, without its request or its caller.
type IndexEntry struct {
	Method string        `json:"method"` // "package.Service/Method"
	ID     string        `json:"id"`     // a fingerprint of its key
	Code   codes.Code    `json:"code"`
	Bytes  uint32        `json:"bytes"` // of memory
	Age    time.Duration `json:"age_ns"`
	Left   time.Duration `json:"left_ns"` // until it expires; negative once it has
	ETag   string        `json:"etag"`
}

// Index lists the answers with the most hits, at most limit and 1,000 of them.
func (c *Cache) Index(limit int) []IndexEntry {
	var all []IndexEntry
	limit = min(limit, maxIndex)
	if limit <= 0 {
		return nil
	}
	for found := range c.memory.entries.Hottest() {
		e := found.Value
		r := e.method.rule.Load()
		if r == nil || len(e.vary) > 0 || !c.memory.generations.valid(r, e) {
			continue
		}
		age := time.Since(e.bornAt)
		all = append(all, IndexEntry{
			Method: e.method.name, ID: digest([]byte(found.Key))[:12], Code: e.failure.Code(),
			Bytes: e.weight, Age: age, Left: r.ttlOf(e) - age, ETag: e.etag,
		})
		if len(all) == limit {
			break
		}
	}
	return all
}

// methods are all methods with a rule, or with an invalidated request. Those beyond the
// bound of the table are counted together.
type methods struct {
	byName rpc.Table[string, *method]
	other  method
}

// method is what all rules of one method share, of whichever channel or server.
type method struct {
	name    string
	rule    atomic.Pointer[rule] // the latest
	entries atomic.Int64
	bytes   atomic.Int64
	results counters
	recent  rateWindow
	shadow  shadowCounts
	ring    clockRing
	// pausedUntil is when it may be refreshed again, in nanoseconds since 1970.
	pausedUntil atomic.Int64

	mu     sync.Mutex
	fields [][]fieldPath // the key fields of each rule
}

// maxKeyFields caps the sets of key fields of a method: each of its few rules, on two
// sides, may have its own.
const maxKeyFields = 16

// addKeyFields records the key fields of a rule, for [Request].
func (m *method) addKeyFields(fields []fieldPath) {
	m.mu.Lock()
	defer m.mu.Unlock()
	same := func(other []fieldPath) bool {
		return slices.EqualFunc(fields, other, isSamePath)
	}
	if len(fields) > 0 && len(m.fields) < maxKeyFields && !slices.ContainsFunc(m.fields, same) {
		m.fields = append(m.fields, fields)
	}
}

// isSamePath reports whether both find the same fields: a contract that is read again has
// descriptors of its own.
func isSamePath(a, b fieldPath) bool {
	return slices.EqualFunc(a, b, func(x, y protoreflect.FieldDescriptor) bool {
		return x.Number() == y.Number() && x.Kind() == y.Kind() && x.Cardinality() == y.Cardinality()
	})
}

func (m *method) keyFields() [][]fieldPath {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.fields)
}

// of returns the method of that name, from its first use on.
func (m *methods) of(fullMethod string) *method {
	if known, ok := m.byName.Of(fullMethod, func() *method { return &method{name: strings.TrimPrefix(fullMethod, "/")} }); ok {
		return known
	}
	return &m.other
}

// all are the methods by name, and last what stands for those beyond the bound.
func (m *methods) all() []*method {
	var all []*method
	for _, one := range m.byName.All() {
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b *method) int { return cmp.Compare(a.name, b.name) })
	return append(all, &m.other)
}

// added and removed count what is in memory.
func (m *method) added(e *entry)   { m.entries.Add(1); m.bytes.Add(int64(e.weight)) }
func (m *method) removed(e *entry) { m.entries.Add(-1); m.bytes.Add(-int64(e.weight)) }

const (
	// slice is the resolution of a rateWindow.
	slice = 15 * time.Second
	// slices15m cover the longest window, and the slice that is being filled.
	slices15m = int(15*time.Minute/slice) + 1
)

// rateWindow counts the latest calls of a method, and how many of them the cache saved. A
// few may be lost when a slice is reused.
type rateWindow struct{ slices [slices15m]timeSlice }

type timeSlice struct {
	number        atomic.Int64 // since 1970
	served, calls atomic.Uint64
}

func (w *rateWindow) add(served bool, now time.Time) {
	number := now.UnixNano() / int64(slice)
	s := &w.slices[number%int64(slices15m)]
	if held := s.number.Load(); held != number && s.number.CompareAndSwap(held, number) {
		s.served.Store(0)
		s.calls.Store(0)
	}
	s.calls.Add(1)
	if served {
		s.served.Add(1)
	}
}

// Rate is how many calls of a window the cache saved.
type Rate struct {
	Served uint64 `json:"served"`
	Calls  uint64 `json:"calls"`
}

// over is the rate of a window of that length, and up to a slice more.
func (w *rateWindow) over(length time.Duration, now time.Time) Rate {
	var r Rate
	newest := now.UnixNano() / int64(slice)
	for i := range w.slices {
		s := &w.slices[i]
		if age := newest - s.number.Load(); age >= 0 && age <= int64(length/slice) {
			r.Served += s.served.Load()
			r.Calls += s.calls.Load()
		}
	}
	return r
}
