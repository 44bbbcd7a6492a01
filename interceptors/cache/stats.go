package cache

import (
	"fmt"
	"sync/atomic"
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
	// Stale is a call that has failed and was answered with what was kept past its ttl.
	Stale
	// Bypass is a call that the cache had no part in although its method is
	// cached: the caller is unknown, the request has unknown fields or is no
	// protobuf message, or the cache is closed.
	Bypass
)

// String is "hit", "miss", "coalesced", "stale" or "bypass".
func (r Result) String() string {
	switch r {
	case Hit:
		return "hit"
	case Miss:
		return "miss"
	case Coalesced:
		return "coalesced"
	case Stale:
		return "stale"
	case Bypass:
		return "bypass"
	default:
		return fmt.Sprintf("result %d", uint8(r))
	}
}

// Stats are the figures of a cache since it was made.
type Stats struct {
	Hits, Misses, Coalesced, Stale, Bypassed, Stored uint64

	Entries int    // about how many answers are kept now
	Bytes   uint64 // about how much memory they take
}

// counters count calls by their result, and answers stored.
type counters struct{ hits, misses, coalesced, stale, bypassed, stored atomic.Uint64 }

func (c *counters) add(result Result) {
	switch result {
	case Hit:
		c.hits.Add(1)
	case Miss:
		c.misses.Add(1)
	case Coalesced:
		c.coalesced.Add(1)
	case Stale:
		c.stale.Add(1)
	default:
		c.bypassed.Add(1)
	}
}

// Stats reads the figures. They are taken one after the other, not at one moment.
func (c *Cache) Stats() Stats {
	return Stats{
		Hits:      c.counters.hits.Load(),
		Misses:    c.counters.misses.Load(),
		Coalesced: c.counters.coalesced.Load(),
		Stale:     c.counters.stale.Load(),
		Bypassed:  c.counters.bypassed.Load(),
		Stored:    c.counters.stored.Load(),
		Entries:   c.entries.EstimatedSize(),
		Bytes:     c.entries.WeightedSize(),
	}
}
