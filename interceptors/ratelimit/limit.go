package ratelimit

import (
	"fmt"
	"math"
	"math/bits"
	"time"
)

// Limit admits Calls each Period, and Burst at once. Calls of more than one a
// nanosecond count as one a nanosecond.
type Limit struct {
	Calls  uint64        // 0 admits nothing
	Period time.Duration // 0 or less is one second
	Burst  uint64        // 0 is Calls
}

// String is "50 per 1s, burst 100".
func (l Limit) String() string {
	l = l.full()
	if l.Burst == l.Calls {
		return fmt.Sprintf("%d per %v", l.Calls, l.Period)
	}
	return fmt.Sprintf("%d per %v, burst %d", l.Calls, l.Period, l.Burst)
}

// full replaces what is left out by what it means.
func (l Limit) full() Limit {
	if l.Period <= 0 {
		l.Period = time.Second
	}
	if l.Burst == 0 {
		l.Burst = l.Calls
	}
	return l
}

// Never is the RetryAfter of a call that costs more than a full bucket holds.
const Never time.Duration = math.MaxInt64

// Decision is the answer to one call.
type Decision struct {
	Admitted bool
	// RetryAfter is how long the call would have to wait, if nobody else came: 0
	// when it is admitted now.
	RetryAfter time.Duration
}

// longest is where times saturate: 73 years, of which a few add up without overflow.
const longest = math.MaxInt64 / 4

// rate is a limit in nanoseconds: what one call takes and what a bucket holds.
type rate struct{ every, burst int64 }

// rate rounds the time of a call up, so that rounding admits nothing extra.
func (l Limit) rate() rate {
	l = l.full()
	if l.Calls == 0 {
		return rate{every: longest, burst: 0}
	}
	every := (uint64(l.Period)-1)/l.Calls + 1
	return rate{every: times(every, 1), burst: times(every, l.Burst)}
}

// cost is the time that n calls take.
func (r rate) cost(n uint64) int64 { return times(uint64(r.every), n) }

// convert moves a bucket that would be full at tat to another rate: what it has
// used of its burst stays the same share.
func (r rate) convert(tat, now int64, to rate) int64 {
	if r == to || tat <= now {
		return tat
	}
	used := min(float64(tat-now)/float64(r.burst), 1)
	return now + int64(math.Ceil(used*float64(to.burst)))
}

// terms are what a call meets at a limit.
type terms struct {
	rate
	limit Limit // of which rate is the short form
	cost  int64 // the time that it takes
	holds int64 // the most that is admitted at once: the burst, or one call of a share
	warm  int64 // the time that a new key takes to reach the full limit
}

func (l Limit) terms(cost uint64) terms {
	r := l.rate()
	return terms{rate: r, limit: l, cost: r.cost(cost), holds: r.burst}
}

// costAt is the cost of a call of the key of b, nil for a new one. While the key is
// at a part of its warm-up, it has that part of rate and burst: a call costs so
// much more, up to all of the burst, so that one is always admitted at first.
func (t *terms) costAt(now int64, b *bucket) int64 {
	if t.warm == 0 || t.cost == 0 || t.cost > t.burst {
		return t.cost
	}
	age := int64(0)
	if b != nil {
		age = now - int64(b.born)*tick
	}
	if age >= t.warm {
		return t.cost
	}
	return int64(min(float64(t.cost)*float64(t.warm)/float64(max(age, 1)), float64(t.burst)))
}

func times(a, b uint64) int64 {
	high, low := bits.Mul64(a, b)
	if high != 0 || low > longest {
		return longest
	}
	return int64(low)
}
