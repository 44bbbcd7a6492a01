package ratelimit

import (
	"math"
	"sync/atomic"
	"time"
)

// bucket is the state of one key. It is full when tat is not after now, and
// empty when tat is its burst ahead of now.
type bucket struct {
	key  key
	rate rate         // under which it was charged
	cost int64        // of a call: what must be left for one more
	tat  atomic.Int64 // theoretical arrival time: when the bucket will be full
}

// retired is the tat of a bucket that has left the table: charging it would
// charge nobody.
const retired = math.MinInt64

// take charges cost if the bucket holds as much. It reports false for a bucket
// that is retired. A reading of the clock before that of an earlier call finds
// the bucket emptier, never fuller, and tat never goes back.
func (b *bucket) take(now int64, r rate, cost int64) (Decision, bool) {
	for {
		tat := b.tat.Load()
		if tat == retired {
			return Decision{}, false
		}
		decision := decide(tat, now, r, cost)
		if !decision.Admitted || b.tat.CompareAndSwap(tat, max(tat, now)+cost) {
			return decision, true
		}
	}
}

// give takes a charge back. A bucket that would hold more than its burst holds
// its burst, since a tat in the past counts as now.
func (b *bucket) give(cost int64) bool {
	for {
		tat := b.tat.Load()
		if tat == retired {
			return false
		}
		if b.tat.CompareAndSwap(tat, tat-cost) {
			return true
		}
	}
}

// retire ends the use of the bucket unless it changed since tat was read.
func (b *bucket) retire(tat int64) bool {
	return tat != retired && b.tat.CompareAndSwap(tat, retired)
}

func decide(tat, now int64, r rate, cost int64) Decision {
	if cost > r.burst {
		return Decision{RetryAfter: Never}
	}
	wait := max(tat, now) + cost - r.burst - now
	if wait <= 0 {
		return Decision{Admitted: true}
	}
	return Decision{RetryAfter: time.Duration(wait)}
}
