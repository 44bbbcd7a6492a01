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
	cost uint32       // of a call, in calls: what must be left for one more
	born uint32       // in ticks, when the key was new
	tat  atomic.Int64 // theoretical arrival time: when the bucket will be full
}

// retired is the tat of a bucket that has left the table: charging it would
// charge nobody.
const retired = math.MinInt64

// tick is the unit of bucket.born, 67 ms: 32 bits of it are nine years.
const tick = 1 << 26

func newBucket(now int64, k key, t *terms) *bucket {
	b := &bucket{key: k, rate: t.rate, cost: uint32(min(min(t.cost, t.burst)/max(t.every, 1), math.MaxUint32))}
	b.born = uint32(min(max(now, 0)/tick+1, math.MaxUint32))
	b.tat.Store(now)
	return b
}

// charge is what one call took from one bucket. Without a bucket it took nothing.
type charge struct {
	bucket *bucket
	cost   int64
	tat    int64 // right after it
	ahead  bool  // its time is still to come: the call waits

	// shadowed: the limit would have refused the call, were it in force.
	shadowed bool
	at       place
}

// take charges the cost of t if the bucket holds as much, or will within patience.
// It reports false for a bucket that is retired. A reading of the clock before that
// of an earlier call finds the bucket emptier, never fuller, and tat never goes back.
func (b *bucket) take(now int64, t *terms, patience int64) (Decision, charge, bool) {
	cost := t.costAt(now, b)
	for {
		tat := b.tat.Load()
		if tat == retired {
			return Decision{}, charge{}, false
		}
		decision := decide(tat, now, t.holds, cost, patience)
		if !decision.Admitted {
			return decision, charge{}, true
		}
		if next := max(tat, now) + cost; b.tat.CompareAndSwap(tat, next) {
			return decision, charge{bucket: b, cost: cost, tat: next, ahead: decision.RetryAfter > 0}, true
		}
	}
}

// refund gives back what of the charge has not come back by itself. A bucket gives
// back in the order in which it was charged, so all of it has at the time tat: a
// refund later than that would be one of another charge, in another window.
func (c charge) refund(now int64) bool {
	back := min(c.cost, c.tat-now)
	if c.bucket == nil || back <= 0 {
		return false
	}
	for {
		tat := c.bucket.tat.Load()
		if tat == retired {
			return false
		}
		if c.bucket.tat.CompareAndSwap(tat, tat-back) {
			return true
		}
	}
}

// cancel undoes the charge of a call that was not made. Who came after one that
// waits has been told a time by it, which nobody else must be told too: then
// the place stays taken.
func (c charge) cancel(now int64) {
	if c.ahead { // so it has a bucket
		c.bucket.tat.CompareAndSwap(c.tat, c.tat-c.cost)
		return
	}
	c.refund(now)
}

// retire ends the use of the bucket unless it changed since tat was read.
func (b *bucket) retire(tat int64) bool {
	return tat != retired && b.tat.CompareAndSwap(tat, retired)
}

// refill makes the bucket full.
func (b *bucket) refill(now int64) {
	for {
		tat := b.tat.Load()
		if tat <= now || b.tat.CompareAndSwap(tat, now) {
			return
		}
	}
}

// over reports whether a call like the last new one would be refused.
func (b *bucket) over(tat, now int64) bool {
	return tat+times(uint64(b.rate.every), uint64(b.cost))-now > b.rate.burst
}

func decide(tat, now, burst, cost, patience int64) Decision {
	if cost > burst {
		return Decision{RetryAfter: Never}
	}
	wait := max(tat, now) + cost - burst - now
	if wait <= 0 {
		return Decision{Admitted: true}
	}
	return Decision{Admitted: wait <= patience, RetryAfter: time.Duration(wait)}
}
