package balancer

import "time"

const (
	// checkEvery is how often it is looked at who answers, while there are calls.
	checkEvery = 20 * time.Millisecond
	// An endpoint has stalled when it has calls under way and none has ended for this
	// many times its latency, and for this time at least.
	stallLatencies = 4
	shortestStall  = 2 * checkEvery
	// stallLoad is how much busier it looks then: nobody is picked after it.
	stallLoad = 1 << 20
)

// checkup finds out which endpoints have stalled. Of the calls that are measured one does
// it every 20 ms, and waits for nobody: a frozen process must not have to wait for the
// deadline of its first call to be found out, and its calls in flight are few as long as
// those of the others are.
func (t *Table) checkup(now time.Duration) {
	last := t.checked.Load()
	if now-time.Duration(last) < checkEvery || !t.checked.CompareAndSwap(last, int64(now)) || !t.mu.TryLock() {
		return
	}
	defer t.mu.Unlock()
	for _, e := range t.endpoints {
		e.check(now)
	}
}

// check compares with what was seen at the last checkup. Where no latency is known,
// as of streams without a record, nobody knows what is long.
func (e *Endpoint) check(now time.Duration) {
	ended := e.ended.Load()
	if ended != e.seen || e.picked.Load() == ended {
		e.seen, e.moved = ended, now
		e.stalled.Store(false)
		return
	}
	seconds, _ := e.latency.read(now)
	limit := max(shortestStall, time.Duration(stallLatencies*seconds*float64(time.Second)))
	e.stalled.Store(seconds > 0 && now-e.moved > limit)
}
