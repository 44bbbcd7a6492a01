package balancer

import (
	"math"
	"sync/atomic"
	"time"
)

// LatencyDecay is the time constant of latencies, as in Finagle's peak EWMA: after it a sample
// of a busy endpoint counts 1/e at most, and one of an idle endpoint nothing.
const LatencyDecay = 10 * time.Second

// latencyStep is the part of the way to a lower sample that a latency falls with it. By time
// alone it would hold the highest peak of seconds, and on a busy machine, where every endpoint
// has peaks, a slow one would not differ from the others.
const latencyStep = 1.0 / 16

// Decay is the part of a latency that remains when age has passed without a sample. Over many
// short intervals it multiplies to e^(-their sum / LatencyDecay).
func Decay(age time.Duration) float64 {
	return max(0, 1-float64(age)*(1/float64(LatencyDecay)))
}

// latency is a moving average that follows a rise at once and a fall over LatencyDecay
// (Finagle's peak EWMA), packed into one word; see [pack]. 0 is no sample.
type latency struct{ word atomic.Uint64 }

// add counts a sample that ended at now. A fall is faster by step, part of the way to each lower
// sample.
func (l *latency) add(sample, now time.Duration, step float64) {
	for {
		word := l.word.Load()
		average := sample.Seconds()
		if old, age := unpack(word, now); old > average {
			average += (old - average) * Decay(age) * (1 - step)
		}
		// Most samples of an even load change nothing within a millisecond.
		next := pack(average, now)
		if next == word || l.word.CompareAndSwap(word, next) {
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
// not wait for the lock. Otherwise a stalled process would be detected only at the deadline of
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
	isStalled := e.is(stalled)
	switch {
	case isStalled && (progress != s.progress || now-s.progressAt > maxStall):
		s.excused, s.progressAt, isStalled = max(inFlight, 0), now, false
	case progress != s.progress || inFlight <= s.excused:
		s.progressAt, isStalled = now, false
	default:
		seconds, _ := e.peak.read(now)
		limit := max(minStall, time.Duration(seconds*float64(time.Second)))
		isStalled = seconds > 0 && now-s.progressAt > limit
	}
	s.progress = progress
	e.impair(stalled, isStalled)
}
