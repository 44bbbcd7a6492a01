package ratelimit

import (
	"fmt"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
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

const (
	defaultMaxKeys = 1 << 17
	minMaxKeys     = 64
	maxMaxKeys     = 1 << 28
	ways           = 8 // buckets in a set: their pointers fill a cache line
	preferred      = 3 // so many buckets go to a set before their other one is considered
	stripes        = 64
	chunkSets      = 64 // sets that are made together, with the first key of one: 4 KiB
)

// Table counts calls by key in bounded memory: once it is in use all over, 8 bytes for each key
// that it can hold, and 48 more for each that it does. It never forgets a key that has used
// up its limit. It is safe for concurrent use; only new keys take a lock.
//
// A key has its place in one of two sets, by the halves of its hash, which fills
// the table evenly (Azar et al., "Balanced Allocations"). While its first set has room
// enough it goes there, so that finding it takes a look at one.
type Table struct {
	start     time.Time // times count from here, so they are monotonic
	seeds     seeds
	chunks    []atomic.Pointer[chunk]
	mask      uint64              // of a hash: the number of its set
	overflow  set                 // for keys that find no room, by rate
	locks     [stripes]sync.Mutex // by key, so that a key is added once
	used      atomic.Int64
	forgotten atomic.Uint64
}

type (
	chunk [chunkSets]set
	set   [ways]slot
	slot  = atomic.Pointer[bucket]
)

// NewTable makes a table with places for maxKeys keys, 64 to 268,435,456, rounded
// up to a power of two. Should all of them be over their limits, the first new
// keys find no room when about three quarters of the places are taken.
func NewTable(maxKeys int) (*Table, error) {
	if maxKeys < minMaxKeys || maxKeys > maxMaxKeys {
		return nil, fmt.Errorf("ratelimit: a table for %d keys: give %d to %d", maxKeys, minMaxKeys, maxMaxKeys)
	}
	sets := 1 << bits.Len(uint((maxKeys-1)/ways))
	return &Table{start: time.Now(), seeds: newSeeds(), chunks: make([]atomic.Pointer[chunk], max(sets/chunkSets, 1)), mask: uint64(sets - 1)}, nil
}

// Allow charges cost to key if limit admits it now.
func (t *Table) Allow(key string, limit Limit, cost uint64) Decision {
	gcra := limit.gcra(cost)
	decision, _ := t.take(t.now(), t.seeds.hash(key), &gcra, 0)
	return decision
}

// AllowAt charges cost to key if limit admits it at the time now. Times may come
// in any order: an earlier one than before admits nothing more.
func (t *Table) AllowAt(now time.Time, key string, limit Limit, cost uint64) Decision {
	gcra := limit.gcra(cost)
	decision, _ := t.take(t.at(now), t.seeds.hash(key), &gcra, 0)
	return decision
}

// Take is Allow for a call whose charge may be refunded.
func (t *Table) Take(key string, limit Limit, cost uint64) (Decision, TableCharge) {
	gcra := limit.gcra(cost)
	decision, taken := t.take(t.now(), t.seeds.hash(key), &gcra, 0)
	return decision, TableCharge{t, taken}
}

// TableCharge is what [Table.Take] has charged: nothing, if the call was refused.
type TableCharge struct {
	table  *Table
	charge charge
}

// Refund gives back what time has not given back yet. It is for one use.
func (c TableCharge) Refund() {
	if c.table != nil {
		c.charge.refund(c.table.now())
	}
}

// Peek is the decision that Allow would make, and charges nothing.
func (t *Table) Peek(key string, limit Limit, cost uint64) Decision {
	gcra := limit.gcra(cost)
	return t.look(t.now(), t.seeds.hash(key), &gcra, 0)
}

// PeekAt is the decision that AllowAt would make, and charges nothing.
func (t *Table) PeekAt(now time.Time, key string, limit Limit, cost uint64) Decision {
	gcra := limit.gcra(cost)
	return t.look(t.at(now), t.seeds.hash(key), &gcra, 0)
}

// now costs half of time.Now, which reads the wall clock too.
func (t *Table) now() int64 { return int64(time.Since(t.start)) }

func (t *Table) at(now time.Time) int64 {
	return min(max(int64(now.Sub(t.start)), -longest), longest)
}

// Standing returns what key has left of limit, and charges nothing.
func (t *Table) Standing(key string, limit Limit) Standing {
	gcra, now := limit.gcra(1), t.now()
	tat, b := t.level(now, t.seeds.hash(key), &gcra)
	return newStanding("", &gcra, now, tat, b)
}

// Reset gives key its whole burst again, under whatever limit it is counted.
func (t *Table) Reset(key string) { t.reset(t.seeds.hash(key)) }

func (t *Table) reset(k key) {
	if _, b := t.find(k); b != nil {
		b.refill(t.now())
	}
}

// take decides, and returns what was charged. A call that has to wait is admitted
// if its wait is no longer than patience.
func (t *Table) take(now int64, k key, gcra *gcra, patience int64) (Decision, charge) {
	if gcra.cost == 0 || gcra.cost > gcra.capacity { // needs no place in the table
		return decide(now, now, gcra.capacity, gcra.cost, 0), charge{}
	}
	for {
		_, b := t.find(k)
		if b == nil || b.rate != gcra.rate {
			b = t.add(now, k, gcra)
		}
		if decision, taken, ok := b.take(now, gcra, patience); ok {
			return decision, taken
		}
	}
}

// look decides without making room for a key that is not there.
func (t *Table) look(now int64, k key, gcra *gcra, patience int64) Decision {
	tat, b := t.level(now, k, gcra)
	return decide(tat, now, gcra.capacity, gcra.costAt(now, b), patience)
}

// level is the tat of a key under gcra, and its bucket, nil for a new key.
func (t *Table) level(now int64, k key, gcra *gcra) (int64, *bucket) {
	_, b := t.find(k)
	if b == nil {
		return now, nil
	}
	return b.rate.convert(b.tat.Load(), now, gcra.rate), b
}

// set is that of one half of a hash, nil before its chunk was made.
func (t *Table) set(half uint64) *set {
	at := half & t.mask
	if c := t.chunks[at/chunkSets].Load(); c != nil {
		return &c[at%chunkSets]
	}
	return nil
}

func (t *Table) makeSet(half uint64) *set {
	if s := t.set(half); s != nil {
		return s
	}
	t.chunks[(half&t.mask)/chunkSets].CompareAndSwap(nil, &chunk{}) // or another key's was first
	return t.set(half)
}

// find is nil for a key that is not there. A set fills from its first slot on and
// no slot becomes empty again, so an empty one ends the search.
func (t *Table) find(k key) (*slot, *bucket) {
	if at, b := t.set(k.hi).find(k); b != nil {
		return at, b
	}
	return t.set(k.lo).find(k)
}

func (s *set) find(k key) (*slot, *bucket) {
	if s == nil {
		return nil, nil
	}
	for i := range s {
		b := s[i].Load()
		if b == nil {
			break
		}
		if b.key == k && b.tat.Load() != retired {
			return &s[i], b
		}
	}
	return nil, nil
}

// add makes a bucket for a key that is not there or was counted under another
// rate, whose used fraction it then keeps. It takes the slot of a bucket only after
// that is retired, so a slot has one writer at a time.
func (t *Table) add(now int64, k key, gcra *gcra) *bucket {
	lock := &t.locks[k.lo%stripes]
	lock.Lock()
	defer lock.Unlock()
	for {
		fresh := newBucket(now, k, gcra)
		at, old := t.find(k)
		if old != nil && old.rate == gcra.rate {
			return old
		}
		if old == nil {
			at, old = t.room(now, k)
		}
		if at == nil {
			return t.overflowBucket(now, gcra)
		}
		if t.put(now, at, old, fresh) {
			return fresh
		}
	}
}

// put reports false if the slot, or the bucket in it, changed in between.
func (t *Table) put(now int64, at *slot, old, fresh *bucket) bool {
	if old == nil {
		if !at.CompareAndSwap(nil, fresh) {
			return false
		}
		t.used.Add(1)
		return true
	}
	tat := old.tat.Load()
	if !old.retire(tat) {
		return false
	}
	switch {
	case old.key == fresh.key:
		fresh.born = old.born
		fresh.tat.Store(old.rate.convert(tat, now, fresh.rate))
	case tat > now:
		t.forgotten.Add(1)
	}
	at.Store(fresh)
	return true
}

// room finds an empty slot, or else the bucket that has used least of its limit.
// It is nil when all have used it up.
func (t *Table) room(now int64, k key) (at *slot, old *bucket) {
	first := t.makeSet(k.hi)
	for i := range preferred {
		if at := &first[i]; at.Load() == nil {
			return at, nil
		}
	}
	sets, least := [2]*set{first, t.makeSet(k.lo)}, math.Inf(1)
	for i := range ways {
		for _, s := range sets { // the lowest empty slot is in the emptier set
			b := s[i].Load()
			if b == nil {
				return &s[i], nil
			}
			tat := b.tat.Load()
			if tat == retired || b.over(tat, now) {
				continue
			}
			if load := float64(tat-now) / float64(b.rate.burst); load < least {
				at, old, least = &s[i], b, load
			}
		}
	}
	return at, old
}

// overflowBucket is that of all keys under one rate that find no room. The caller
// holds the lock of its key only, so others may come for the same bucket.
func (t *Table) overflowBucket(now int64, gcra *gcra) *bucket {
	at := &t.overflow[uint64(gcra.interval^gcra.burst)%ways]
	for {
		old := at.Load()
		if old != nil && old.rate == gcra.rate && old.tat.Load() != retired {
			return old
		}
		fresh := newBucket(now, key{}, gcra)
		if t.put(now, at, old, fresh) {
			return fresh
		}
	}
}

// bucket is the state of one key. It is full when tat is not after now, and
// empty when tat is its burst ahead of now.
type bucket struct {
	key  key
	rate rate         // under which it was charged
	cost uint32       // of a call, in calls: what must be left for one more
	born uint32       // in ticks, when the key was new
	tat  atomic.Int64 // theoretical arrival time: when the bucket will be full
}

// retired is the tat of a bucket that has left the table: a charge would
// be lost.
const retired = math.MinInt64

// tick is the unit of bucket.born, 67 ms: 32 bits of it are nine years.
const tick = 1 << 26

func newBucket(now int64, k key, g *gcra) *bucket {
	b := &bucket{key: k, rate: g.rate, cost: uint32(min(min(g.cost, g.burst)/max(g.interval, 1), math.MaxUint32))}
	b.born = uint32(min(max(now, 0)/tick+1, math.MaxUint32))
	b.tat.Store(now)
	return b
}

// charge is what one call took from one bucket. Without a bucket it took nothing.
type charge struct {
	bucket *bucket
	cost   int64
	tat    int64 // right after it
	waits  bool  // the call is admitted for a time to come

	// shadowed: the limit would have refused the call, were it in force.
	shadowed bool
	in       counter
}

// take charges the cost of g if the bucket holds as much, or will within patience.
// It reports false for a bucket that is retired. A reading of the clock before that
// of an earlier call finds the bucket emptier, never fuller, and tat never goes back.
func (b *bucket) take(now int64, g *gcra, patience int64) (Decision, charge, bool) {
	cost := g.costAt(now, b)
	for {
		tat := b.tat.Load()
		if tat == retired {
			return Decision{}, charge{}, false
		}
		decision := decide(tat, now, g.capacity, cost, patience)
		if !decision.Admitted {
			return decision, charge{}, true
		}
		if next := max(tat, now) + cost; b.tat.CompareAndSwap(tat, next) {
			return decision, charge{bucket: b, cost: cost, tat: next, waits: decision.RetryAfter > 0}, true
		}
	}
}

// refund gives back what time has not given back yet. A bucket recovers in the order in
// which it was charged, so at tat this charge has: a later refund would be one of another
// charge, in another window.
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

// cancel undoes the charge of a call that was not made. A waiting call is refunded in
// full only if no later call was scheduled behind it.
func (c charge) cancel(now int64) {
	if c.waits { // so it has a bucket
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
	return tat+b.rate.cost(uint64(b.cost))-now > b.rate.burst
}
