package balancer

import (
	"math"
	"sync/atomic"
	"time"
)

// LatencyDecay is how long a latency is remembered: on a busy endpoint a sample counts
// for 1/e of itself after it, and on one that has no calls for nothing. The same as
// in Finagle's peak EWMA.
const LatencyDecay = 10 * time.Second

// latency is a moving average that follows a rise at once and a fall over
// LatencyDecay (Finagle's peak EWMA): in the upper half of the word seconds as
// float32, in the lower half when it was sampled last, in milliseconds of the table.
// 0 is no sample.
type latency struct{ word atomic.Uint64 }

// add counts a sample that has ended now.
func (l *latency) add(sample, now time.Duration) {
	for {
		word := l.word.Load()
		average := sample.Seconds()
		if known, age := unpack(word, now); known > average {
			average += (known - average) * Kept(age)
		}
		if l.word.CompareAndSwap(word, pack(average, now)) {
			return
		}
	}
}

// Kept is the part of a latency that is left after it was not sampled for a time:
// what many short times leave is e^(-their sum / LatencyDecay).
func Kept(age time.Duration) float64 {
	return max(0, 1-float64(age)/float64(LatencyDecay))
}

// read is the average in seconds, and how long ago it was sampled last. 0 is none.
func (l *latency) read(now time.Duration) (seconds float64, age time.Duration) {
	return unpack(l.word.Load(), now)
}

func pack(seconds float64, now time.Duration) uint64 {
	bits := max(math.Float32bits(float32(seconds)), 1) // 0 is no sample
	return uint64(bits)<<32 | uint64(uint32(now/time.Millisecond))
}

// unpack reads a word. The milliseconds are good for 24 days. A sample by another
// goroutine may be newer than now.
func unpack(word uint64, now time.Duration) (seconds float64, age time.Duration) {
	ms := int32(uint32(now/time.Millisecond) - uint32(word))
	return float64(math.Float32frombits(uint32(word >> 32))), time.Duration(max(ms, 0)) * time.Millisecond
}

// Latency is how long the first response takes here, in seconds, which rises at once
// and falls slowly, and how long before now it was sampled last. 0 is unknown. Now is
// [View.Now].
func (e *Endpoint) Latency(now time.Duration) (seconds float64, age time.Duration) {
	return e.latency.read(now)
}
