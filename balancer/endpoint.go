package balancer

import (
	"cmp"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Endpoint is the state of one endpoint, shared by all channels that share its table.
type Endpoint struct {
	attempt.Instance
	table *Table

	// What every pick touches, on a cache line of its own.
	_           [64]byte
	picked      atomic.Uint64 // attempts sent here
	ended       atomic.Uint64 // of them, those that ended
	failureRate failureRate
	latency     latency
	stalled     atomic.Bool // calls are in flight and none ends
	suspect     atomic.Bool // there were failures, so successes are recorded too
	_           [64]byte

	ignored   atomic.Uint64 // ended attempts with the outcome ignored
	streams   atomic.Int64  // attempts in flight that have responded, or are streams
	responded atomic.Uint64 // attempts whose answer went on after the first response
	// answers is nil while answers are not compared.
	answers atomic.Pointer[answersByMethod]

	// Table.mu guards the rest.

	users      int           // channels that list it
	connected  int           // of them, those with a connection
	broken     bool          // none has one, and a connection attempt failed
	lastUsedAt time.Duration // when a channel last released it

	startsSlowly bool          // slow start begins when it is next ready
	slowStarted  bool          // slow start has begun once
	slowStartAt  time.Duration // when that was
	firstCallDue bool          // and it has had no call since

	reach    reach
	stall    stall
	refusing refusing
	ejection ejectionState
}

// Candidate is an endpoint that can be reached, from which a policy picks. Policies keep
// candidates in their own slice and never change them.
type Candidate struct {
	*Endpoint
	Weight uint32 // at least 1

	index  uint32 // in the list that the view was made of
	member *member
}

// member is an endpoint of one channel. Table.mu guards state and summary; the rest never
// changes.
type member struct {
	*Endpoint
	listed           listed
	ejectionSettings Ejection

	state   reachability
	summary summary
}

// listed is an endpoint as a channel lists it.
type listed struct {
	id, address string
	weight      uint32 // at least 1
	zone        zone
}

func listedInstance(i *catalog.Instance) listed {
	return listed{i.ID, i.Address, max(i.Weight, 1), zone{i.Region, i.Zone}}
}

// reachability is what a channel knows of its way to an endpoint.
type reachability uint8

const (
	unconnected reachability = iota // not yet, or not any more
	connected
	unreachable // a connection attempt failed
)

// InFlight counts the attempts that were sent here and have not ended.
func (e *Endpoint) InFlight() int64 {
	ended := e.ended.Load() // first: what ends in between must not count twice
	return int64(e.picked.Load() - ended)
}

// Picks counts all attempts ever sent here.
func (e *Endpoint) Picks() uint64 { return e.picked.Load() }

// Load is [Endpoint.InFlight] as a policy should see it. Recent failures raise it, since an
// endpoint that fails fast would otherwise draw all calls: it needs 1 / (success rate)
// attempts for each answer. One or two failures do not change the load of an idle endpoint,
// so a series of them is detected soon. A stalled endpoint has more load than all others.
func (e *Endpoint) Load() int64 {
	n := e.InFlight()
	if e.failureRate.word.Load() != 0 {
		successRate := 1 - e.failureRate.read(e.table.now())
		n = int64(math.Round(float64(n+1)/successRate - 1))
	}
	if n > 0 && e.stalled.Load() {
		n += stallLoad
	}
	return n
}

// lighter reports whether c has less load for its weight than other.
func (c *Candidate) lighter(other *Candidate) bool {
	return c.Load()*int64(other.Weight) < other.Load()*int64(c.Weight)
}

// Latency is the moving average of the time to the first response, in seconds, and its age at
// now. 0 is unknown. It follows a rise at once and a fall over [LatencyDecay]. now is
// [View.Now].
func (e *Endpoint) Latency(now time.Duration) (seconds float64, age time.Duration) {
	return e.latency.read(now)
}

// end counts an ended attempt. Only a bad outcome, or a good one soon after it, takes the lock.
func (e *Endpoint) end(o Outcome, s *Ejection) {
	if o == Ignored {
		e.ended.Add(1)
		e.ignored.Add(1) // last, so that ignored never exceeds ended
		return
	}
	if o != Succeeded && !e.table.comparing.Load() {
		e.table.startComparing()
	}
	if !o.healthy() || e.suspect.Load() {
		e.table.recordOutcome(e, o, s)
	}
	e.ended.Add(1)
}

// LatencyDecay is the time constant of latencies, as in Finagle's peak EWMA: after it a sample
// of a busy endpoint counts 1/e, and one of an idle endpoint nothing.
const LatencyDecay = 10 * time.Second

// Decay is the part of a latency that remains when age has passed without a sample. Over many
// short intervals it multiplies to e^(-their sum / LatencyDecay).
func Decay(age time.Duration) float64 {
	return max(0, 1-float64(age)/float64(LatencyDecay))
}

// latency is a moving average that follows a rise at once and a fall over LatencyDecay
// (Finagle's peak EWMA), packed into one word; see [pack]. 0 is no sample.
type latency struct{ word atomic.Uint64 }

// add counts a sample that ended at now.
func (l *latency) add(sample, now time.Duration) {
	for {
		word := l.word.Load()
		average := sample.Seconds()
		if old, age := unpack(word, now); old > average {
			average += (old - average) * Decay(age)
		}
		if l.word.CompareAndSwap(word, pack(average, now)) {
			return
		}
	}
}

// read returns the average and the age of the newest sample. 0 is no sample.
func (l *latency) read(now time.Duration) (seconds float64, age time.Duration) {
	return unpack(l.word.Load(), now)
}

const (
	// Each outcome counts for an eighth of the failure rate, which halves in this time while
	// there are no outcomes.
	failureStep     = 1.0 / 8
	failureHalfLife = 5 * time.Second
	// A failure rate below minFailureRate is 0. From the maximum to below it takes 25 s.
	minFailureRate = 1.0 / 32
	maxFailureRate = 0.999
)

// failureRate is a moving average of failed attempts among the latest, packed like a latency.
// Table.mu guards its changes. 0 is none.
type failureRate struct{ word atomic.Uint64 }

// add counts an outcome, and reports whether it is the first failure after a healthy time.
func (f *failureRate) add(failed bool, now time.Duration) (first bool) {
	rate := f.read(now)
	first = failed && rate == 0
	if failed {
		rate += (1 - rate) * failureStep
	} else {
		rate -= rate * failureStep
	}
	if rate < minFailureRate {
		f.word.Store(0)
		return first
	}
	f.word.Store(pack(rate, now))
	return first
}

// read is the rate as of now.
func (f *failureRate) read(now time.Duration) float64 {
	word := f.word.Load()
	if word == 0 {
		return 0
	}
	rate, age := unpack(word, now)
	rate *= math.Exp2(-float64(age) / float64(failureHalfLife))
	if rate < minFailureRate {
		return 0
	}
	return min(rate, maxFailureRate)
}

// pack puts value as float32 into the upper half of a word, and now into the lower half, in
// milliseconds.
func pack(value float64, now time.Duration) uint64 {
	bits := max(math.Float32bits(float32(value)), 1) // 0 is no value
	return uint64(bits)<<32 | uint64(uint32(now/time.Millisecond))
}

// unpack reads a word. The milliseconds wrap after 24 days. A sample of another goroutine may
// be newer than now.
func unpack(word uint64, now time.Duration) (value float64, age time.Duration) {
	ms := int32(uint32(now/time.Millisecond) - uint32(word))
	return float64(math.Float32frombits(uint32(word >> 32))), time.Duration(max(ms, 0)) * time.Millisecond
}

const (
	// stallCheckInterval is how often stalls are checked for while there are calls.
	stallCheckInterval = 20 * time.Millisecond
	// An endpoint has stalled when calls are in flight and none has ended for its latency, and
	// for this time at least.
	minStall = 2 * stallCheckInterval
	// maxStall is how long the same calls may keep it stalled: some calls take long by design.
	maxStall = time.Second
	// stallLoad is the load added to a stalled endpoint: more than that of all others.
	stallLoad = 1 << 20
)

// stallCheck finds stalled endpoints. One of the timed attempts runs it every 20 ms and does
// not wait for the lock. Otherwise a frozen process would be detected only at the deadline of
// its first call.
type stallCheck struct{ lastAt atomic.Int64 }

func (c *stallCheck) run(t *Table, now time.Duration) {
	last := c.lastAt.Load()
	if now-time.Duration(last) < stallCheckInterval || !c.lastAt.CompareAndSwap(last, int64(now)) || !t.mu.TryLock() {
		return
	}
	defer t.mu.Unlock()
	for _, e := range t.endpoints {
		e.stall.check(e, now)
	}
}

// stall is the state of an endpoint at the last check. Table.mu guards it.
type stall struct {
	progress   uint64        // attempts that had ended or responded
	progressAt time.Duration // when that number last changed, or nothing was in flight
	excused    int64         // attempts in flight that take long by design
}

// check compares with the last check. Streams do not count, nor do endpoints without a
// latency. When one of several calls ends, or after maxStall, the others are excused and the
// endpoint is tried with new ones.
func (s *stall) check(e *Endpoint, now time.Duration) {
	ended := e.ended.Load()
	progress := ended + e.responded.Load()
	inFlight := int64(e.picked.Load()-ended) - e.streams.Load()
	s.excused = min(s.excused, max(inFlight, 0))
	stalled := e.stalled.Load()
	switch {
	case stalled && (progress != s.progress || now-s.progressAt > maxStall):
		s.excused, s.progressAt, stalled = max(inFlight, 0), now, false
	case progress != s.progress || inFlight <= s.excused:
		s.progressAt, stalled = now, false
	default:
		seconds, _ := e.latency.read(now)
		limit := max(minStall, time.Duration(seconds*float64(time.Second)))
		stalled = seconds > 0 && now-s.progressAt > limit
	}
	s.progress = progress
	e.stalled.Store(stalled)
}

// maxTurns bounds the length of a schedule, and so the time to make one. Weights with a larger
// sum are rounded, each by less than 1/16384 of the sum.
const maxTurns = 1 << 14

// Schedule is a round in which each candidate has as many turns as its weight, evenly spread.
// It is immutable.
type Schedule struct {
	candidates uint32
	order      []uint32 // nil if all weights are equal: each in turn
}

// NewSchedule makes the schedule of one candidate or more.
func NewSchedule(candidates []Candidate) Schedule {
	weights := make([]uint32, len(candidates))
	for i := range candidates {
		weights[i] = candidates[i].Weight
	}
	s := Schedule{candidates: uint32(len(candidates))}
	if weights = reduce(weights); slices.Max(weights) > 1 {
		s.order = spread(weights)
	}
	return s
}

// At is the index of the candidate with the n-th turn, for any n.
func (s Schedule) At(n uint32) int {
	if s.order == nil {
		return int(n % s.candidates)
	}
	return int(s.order[n%uint32(len(s.order))])
}

// maxDraws bounds the random draws for an index not drawn before, since one weight above all
// others could make them many.
const maxDraws = 16

// Draw is the index of a candidate at random, by weight, that is not in taken. There must be
// one.
func (s Schedule) Draw(taken []int, random func() uint64) int {
	i := s.At(uint32(random()))
	for range maxDraws {
		if !slices.Contains(taken, i) {
			return i
		}
		i = s.At(uint32(random()))
	}
	for slices.Contains(taken, i) {
		i = (i + 1) % int(s.candidates)
	}
	return i
}

// spread orders the turns by earliest deadline first, as Envoy does: the deadline of turn k of
// weight w is (k + phase) / w of the round. Candidates of one weight differ in phase, so that
// their turns do not follow each other.
func spread(weights []uint32) []uint32 {
	type turn struct {
		deadline  float64
		candidate uint32
	}
	alike, before := map[uint32]int{}, map[uint32]int{}
	for _, w := range weights {
		alike[w]++
	}
	var turns []turn
	for i, w := range weights {
		phase := (float64(before[w]) + 0.5) / float64(alike[w])
		before[w]++
		for k := range w {
			turns = append(turns, turn{(float64(k) + phase) / float64(w), uint32(i)})
		}
	}
	slices.SortFunc(turns, func(a, b turn) int {
		return cmp.Or(cmp.Compare(a.deadline, b.deadline), cmp.Compare(a.candidate, b.candidate))
	})
	order := make([]uint32, len(turns))
	for i, t := range turns {
		order[i] = t.candidate
	}
	return order
}

// reduce makes weights as small as their proportions allow, and rounds them where the sum is
// still too large. No weight becomes 0.
func reduce(weights []uint32) []uint32 {
	divisor, sum := uint32(0), uint64(0)
	for _, w := range weights {
		divisor = gcd(divisor, w)
		sum += uint64(w)
	}
	sum /= uint64(divisor)
	reduced := make([]uint32, len(weights))
	for i, w := range weights {
		reduced[i] = w / divisor
		if sum > maxTurns {
			reduced[i] = max(1, uint32((uint64(reduced[i])*maxTurns+sum/2)/sum))
		}
	}
	return reduced
}

func gcd(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
