package balancer

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	// Each outcome counts for an eighth of the part that fails, which halves while
	// nothing comes.
	failingStep     = 1.0 / 8
	failingHalfLife = 5 * time.Second
	// Less than negligible is nothing; the most is one success in a thousand. From the
	// most to negligible takes 25 s, then an endpoint is like the others.
	negligible = 1.0 / 32
	mostFails  = 0.999
	// failingTick is how often weights follow it.
	failingTick = time.Second
)

// failing is the part of the latest calls that an endpoint has not answered, packed
// like a latency. Table.mu guards its changes. 0 is none.
type failing struct{ word atomic.Uint64 }

// count adds an outcome, and reports whether it is the first failure after a good time.
func (f *failing) count(failed bool, now time.Duration) (first bool) {
	part := f.read(now)
	first = failed && part == 0
	if failed {
		part += (1 - part) * failingStep
	} else {
		part -= part * failingStep
	}
	if part < negligible {
		f.word.Store(0)
		return first
	}
	f.word.Store(pack(part, now))
	return first
}

// read is the part as of now.
func (f *failing) read(now time.Duration) float64 {
	word := f.word.Load()
	if word == 0 {
		return 0
	}
	part, age := unpack(word, now)
	part *= math.Exp2(-float64(age) / float64(failingHalfLife))
	if part < negligible {
		return 0
	}
	return min(part, mostFails)
}

// Load is InFlight as a choice should see it. An endpoint that has failed of late
// looks busier than it is, or by failing fast it would draw all calls: for one more
// answer it would have to try 1 / (the part that succeeds) times. A failure or two make
// no difference to an idle one, so that a row of them is found out soon. One that has
// stalled looks busier than all others.
func (e *Endpoint) Load() int64 {
	n := e.InFlight()
	if e.failing.word.Load() != 0 {
		succeeds := 1 - e.failing.read(e.table.now())
		n = int64(math.Round(float64(n+1)/succeeds - 1))
	}
	if n > 0 && e.stalled.Load() {
		n += stallLoad
	}
	return n
}
