package cache

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Result is what the cache did for a call.
type Result uint8

const (
	// Hit is a call answered from the cache.
	Hit Result = iota + 1
	// Miss is a call whose answer was not there, or no longer fresh.
	Miss
	// Coalesced is a call that was answered with another's answer, or failure, for the
	// same request at the same time.
	Coalesced
	// Stale is a call that was answered with what was kept past its ttl: because it has
	// failed, while a newer answer is fetched, or because the caller takes it so.
	Stale
	// Bypass is a call that the cache had no part in although its method is
	// cached: the caller is unknown or says no-store, WithSkip says so, options of the call
	// make it another's, the request has unknown fields or is no protobuf message, or the
	// cache is closed.
	Bypass
	// ShadowHit is a call in shadow mode which would have been answered from the cache as
	// it was answered.
	ShadowHit
	// ShadowStale is a call in shadow mode which would have been answered with what was no
	// longer true.
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

// Counts are of calls by their result, and of what else was done for a method.
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
	IgnoredDirectives uint64 `json:"ignored_directives"` // of callers that are not trusted
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

// addTo adds what was counted until now. It is read one after the other, not at one moment.
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
	Counts
	Evicted                             uint64 // answers given up to make room
	Invalidations                       uint64 // by this process
	StoreHits, StoreErrors, StoreLosses uint64 // a loss: invalidations may have been missed

	Entries  int    // about how many answers are kept now
	Bytes    uint64 // about how much memory they take
	MaxBytes uint64
}

// Stats reads the figures. They are taken one after the other, not at one moment.
func (c *Cache) Stats() Stats {
	s := Stats{
		Evicted:       c.evicted.Load(),
		Invalidations: c.invalidations.Load(),
		StoreHits:     c.storeHits.Load(),
		StoreErrors:   c.storeErrors.Load(),
		StoreLosses:   c.storeLosses.Load(),
		Entries:       c.entries.EstimatedSize(),
		Bytes:         c.entries.WeightedSize(),
		MaxBytes:      c.options.maxBytes,
	}
	for _, m := range c.methods.all() {
		m.results.addTo(&s.Counts)
	}
	return s
}

// MethodStats are the figures of one method.
type MethodStats struct {
	Method string // "package.Service/Method"; "" is all those beyond the first 4,096
	Counts
	Entries int64
	Bytes   int64
	// LastMinute, Last5Minutes and Last15Minutes count calls that the cache had a part in.
	LastMinute, Last5Minutes, Last15Minutes Rate
	Shadow                                  []ShadowStats // in shadow mode
}

// ShadowStats are how many answers would have been served up to an age, and how many of
// them would no longer have been true: what a ttl of that age costs.
type ShadowStats struct {
	UpTo              time.Duration // 0 is any age
	Compared, Changed uint64
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
			Shadow:        m.compare.stats(),
		}
		m.results.addTo(&s.Counts)
		if s.Counts != (Counts{}) || s.Entries > 0 {
			all = append(all, s)
		}
	}
	return all
}

// stats is nil where nothing was compared.
func (c *comparison) stats() []ShadowStats {
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
