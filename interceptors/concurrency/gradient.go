package concurrency

import (
	"math"
	"math/rand/v2"
	"time"
)

const (
	initialLimit = 20     // as in Netflix's Gradient2
	defaultMin   = 3      // as in Envoy
	buffer       = 1.1    // latency that is no sign of a queue: a tenth above the base
	steepest     = 0.5    // the most that one window takes of the limit
	enough       = 7. / 8 // of the throughput of the whole limit, for half of it

	windowCalls = 50 // for a mean without too much noise
	windowTurns = 5  // calls of a window for each that runs at once: so it lasts 5 latencies
	windowTime  = int64(100 * time.Millisecond)

	probeEvery = int64(10 * time.Second) // as BBR looks for its least round trip
	probeRest  = 30                      // windows at least, so that probes take little of the time
	maxProbe   = 10                      // windows of a probe while calls are refused
)

// gradient finds the limit of one method. Times are nanoseconds of one monotonic
// clock. The caller serializes its methods.
//
// A window lies between two changes of the limit. Its samples are the calls that end in
// it, less as many as were under way when it began, under another limit. To take only
// calls that also begin in it would prefer the short ones.
type gradient struct {
	limit float64
	base  int64 // mean latency at half the limit, 0 while it is unknown
	last  int64 // mean latency of the window before

	phase    phase
	phaseEnd int64 // when a probe ends early if calls are refused
	nextAt   int64 // when the next probe is due
	fresh    bool  // the base was measured in the window before

	from, sum      int64
	calls, expired int64
	skip           int64 // calls from before the window that have yet to end
}

// phase is what the window is for.
type phase uint8

const (
	steady    phase = iota // the limit holds
	settling               // half of it holds, and calls from before are still under way
	measuring              // half of it holds, and the base is measured
)

// allowed is how many calls may run now.
func (g *gradient) allowed() int64 {
	if g.phase == steady {
		return int64(g.limit)
	}
	return int64(max(g.limit/2, 1))
}

// settle begins the measurement of a probe once no more calls run than it allows, and
// reports whether that began a window.
func (g *gradient) settle(now, inFlight int64, in bounds) bool {
	if g.phase != settling || inFlight > in.clamp(g.allowed()) {
		return false
	}
	g.phase = measuring
	g.begin(now, inFlight)
	return true
}

// skipped reports whether a call that has ended now is no sample of the window.
func (g *gradient) skipped(now int64) bool {
	if g.skip == 0 {
		return g.phase == settling
	}
	if g.skip--; g.skip == 0 {
		g.from = now
	}
	return true
}

// sample takes a call that has ended now, and reports whether that ended the window. Then
// another is to begin. peak is the most calls that ran at once in it.
func (g *gradient) sample(now, began int64, expired bool, peak int64, in bounds) bool {
	latency := now - began
	if expired && latency < g.base {
		return false // its deadline was shorter than the method's latency
	}
	g.calls++
	g.sum += latency
	if expired {
		g.expired++
	}
	if g.calls < max(windowCalls, windowTurns*peak) || now-g.from < windowTime {
		return false
	}
	mean := max(g.sum/g.calls, 1)    // a coarse clock may say 0
	g.limit = in.clampFloat(g.limit) // the policy may have changed
	if g.phase == measuring {
		g.measured(now, mean, peak, in)
	} else {
		g.adapt(now, mean, peak, in)
	}
	return true
}

// measured ends a probe with the new base. By Little's law, calls in flight over
// latency is throughput: if half the limit achieves about as much, the other half only
// queues, and the half, if it was fully used, becomes the limit and is probed in turn. The
// same applies when even with it most calls expire.
func (g *gradient) measured(now, mean, peak int64, in bounds) {
	whole, half := in.clamp(int64(g.limit)), in.clamp(g.allowed())
	moved := far(mean, g.base)
	queued := float64(half)/float64(mean) >= enough*float64(whole)/float64(g.last)
	g.last = mean
	if !g.failing() {
		g.base, g.fresh = mean, true
	}
	if half < whole && peak >= half && (queued || g.failing()) {
		g.limit = float64(half)
		g.probe(now)
		return
	}
	g.rest(now)
	if moved {
		g.nextAt = now // the window before may have seen only a part of the change
	}
}

// adapt moves the limit by Envoy's formula: by the base over what the latency is now,
// and up by its root. A limit that is not half used stays.
//
// A latency far from the base may have other reasons than the load, so the base is
// measured anew first.
func (g *gradient) adapt(now, mean, peak int64, in bounds) {
	g.last = mean
	if g.base == 0 || far(mean, g.base) && !g.fresh {
		g.probe(now)
		return
	}
	g.fresh = false
	if float64(2*peak) >= g.limit {
		slope := float64(g.base) / float64(mean)
		next := g.limit*min(max(buffer*slope, steepest), 1) + math.Sqrt(g.limit)
		if g.failing() {
			next = g.limit * steepest
		}
		g.limit = in.clampFloat(next)
	}
	if now >= g.nextAt {
		g.probe(now)
	}
}

// far reports whether one latency is more than twice the other.
func far(a, b int64) bool { return a > 2*b || b > 2*a }

// failing reports whether most calls of the window expired. Their latency is that of
// their deadlines, not of the method.
func (g *gradient) failing() bool { return 2*g.expired > g.calls }

// probe begins to halve the limit.
func (g *gradient) probe(now int64) {
	g.phase, g.phaseEnd = settling, now+maxProbe*windowOf(g.last)
}

// giveUp ends a probe that takes too long while calls are refused.
func (g *gradient) giveUp(now int64) bool {
	if g.phase == steady || now < g.phaseEnd {
		return false
	}
	g.rest(now)
	return true
}

// rest keeps the limit until the next probe. Without jitter, instances that were started
// together would probe, and refuse, together. Seeded by the clock, it is repeatable in a
// test in virtual time.
func (g *gradient) rest(now int64) {
	g.phase = steady
	wait := max(probeEvery, probeRest*windowOf(g.last))
	g.nextAt = now + wait + rand.New(rand.NewPCG(uint64(now), 0)).Int64N(wait/2)
}

// windowOf is about how long a window lasts.
func windowOf(latency int64) int64 { return max(windowTime, windowTurns*latency) }

func (g *gradient) begin(now, inFlight int64) {
	g.from, g.sum, g.calls, g.expired, g.skip = now, 0, 0, 0, inFlight
}
