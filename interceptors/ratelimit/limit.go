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
	Calls  uint64        `json:"limit"`     // 0 admits nothing
	Period time.Duration `json:"period_ns"` // 0 or less is one second
	Burst  uint64        `json:"burst"`     // 0 is Calls
}

// String is "50 per 1s, burst 100".
func (l Limit) String() string {
	l = l.withDefaults()
	if l.Burst == l.Calls {
		return fmt.Sprintf("%d per %v", l.Calls, l.Period)
	}
	return fmt.Sprintf("%d per %v, burst %d", l.Calls, l.Period, l.Burst)
}

func (l Limit) withDefaults() Limit {
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
	// RetryAfter is how long the call would have to wait if no other call came: 0
	// when it is admitted now.
	RetryAfter time.Duration
}

// decide admits a call if its bucket, full at tat, has room for cost now or within patience.
func decide(tat, now, capacity, cost, patience int64) Decision {
	if cost > capacity {
		return Decision{RetryAfter: Never}
	}
	wait := max(tat, now) + cost - capacity - now
	if wait <= 0 {
		return Decision{Admitted: true}
	}
	return Decision{Admitted: wait <= patience, RetryAfter: time.Duration(wait)}
}

// longest is where times saturate: 73 years, of which a few add up without overflow.
const longest = math.MaxInt64 / 4

// rate is a limit in nanoseconds: the emission interval of one call, and the burst.
type rate struct{ interval, burst int64 }

// rate rounds the interval up, so that rounding admits nothing extra.
func (l Limit) rate() rate {
	l = l.withDefaults()
	if l.Calls == 0 {
		return rate{interval: longest, burst: 0}
	}
	interval := (uint64(l.Period)-1)/l.Calls + 1
	return rate{interval: multiply(interval, 1), burst: multiply(interval, l.Burst)}
}

// cost is the time that n calls take.
func (r rate) cost(n uint64) int64 { return multiply(uint64(r.interval), n) }

// convert moves a bucket that would be full at tat to another rate: the used fraction of
// its burst stays.
func (r rate) convert(tat, now int64, to rate) int64 {
	if r == to || tat <= now {
		return tat
	}
	used := min(float64(tat-now)/float64(r.burst), 1)
	return now + int64(math.Ceil(used*float64(to.burst)))
}

// gcra holds the parameters of the generic cell rate algorithm for one call. Times are
// nanoseconds.
type gcra struct {
	rate
	limit    Limit // of which rate is the short form
	cost     int64 // of the call
	capacity int64 // of a bucket: the burst, or the cost where a replica's share of the burst is less
	warmUp   int64 // the time that a new key takes to reach the full limit
}

func (l Limit) gcra(cost uint64) gcra {
	r := l.rate()
	return gcra{rate: r, limit: l, cost: r.cost(cost), capacity: r.burst}
}

// costAt is the cost of a call of the key of b, nil for a new one. During its warm-up a
// key has the elapsed fraction of rate and burst: a call costs more by the same factor,
// but at most the whole burst, so that the first one is always admitted.
func (g *gcra) costAt(now int64, b *bucket) int64 {
	if g.warmUp == 0 || g.cost == 0 || g.cost > g.burst {
		return g.cost
	}
	age := int64(0)
	if b != nil {
		age = now - int64(b.born)*tick
	}
	if age >= g.warmUp {
		return g.cost
	}
	return int64(min(float64(g.cost)*float64(g.warmUp)/float64(max(age, 1)), float64(g.burst)))
}

// scaled are the parameters for one replica: calls come back more slowly, so that fewer of
// them fill the burst, in the same time. A call that costs more than that needs a full
// bucket.
func (g gcra) scaled(share float64) gcra {
	if share == 1 || g.cost > g.burst {
		return g
	}
	slower := func(n int64) int64 { return int64(min(math.Ceil(float64(n)/share), longest)) }
	g.interval, g.cost = slower(g.interval), slower(g.cost)
	g.capacity = max(g.burst, g.cost)
	return g
}

// multiply saturates.
func multiply(a, b uint64) int64 {
	high, low := bits.Mul64(a, b)
	if high != 0 || low > longest {
		return longest
	}
	return int64(low)
}

// Standing is how much of one limit a caller has left.
type Standing struct {
	Name  string // of the limit
	Limit Limit
	// Remaining is how many calls of cost 1 are admitted at once.
	Remaining uint64
	// Reset is how long it takes until the whole burst is available again.
	Reset time.Duration
}

// newStanding is that of the key of b, nil for a new one, whose bucket is full at tat.
func newStanding(name string, g *gcra, now, tat int64, b *bucket) Standing {
	s := Standing{Name: name, Limit: g.limit.withDefaults(), Reset: time.Duration(max(tat-now, 0))}
	one := *g
	one.cost = g.interval
	burst := g.burst
	if burst > 0 {
		burst = max(burst, g.interval) // a share of the burst may be less than a call
	}
	if free := burst - max(tat-now, 0); free > 0 {
		s.Remaining = uint64(free / one.costAt(now, b))
	}
	return s
}
