package balancer

import "time"

const (
	// checkEvery is how often it is looked at who answers, while there are calls.
	checkEvery = 20 * time.Millisecond
	// An endpoint has stalled when it has calls under way and none has ended for as long
	// as a response takes at its worst, and for this time at least.
	shortestStall = 2 * checkEvery
	// longestStall is how long it may look stalled for the same calls: some take long
	// where others do not.
	longestStall = time.Second
	// stallLoad is how much busier it looks then: than all that have not stalled.
	stallLoad = 1 << 20
)

// checkStalls finds out which endpoints have stalled. Of the calls that are measured one
// does it every 20 ms, and waits for nobody: a frozen process should not be found out
// only at the deadline of its first call.
func (t *Table) checkStalls(now time.Duration) {
	last := t.checked.Load()
	if now-time.Duration(last) < checkEvery || !t.checked.CompareAndSwap(last, int64(now)) || !t.mu.TryLock() {
		return
	}
	defer t.mu.Unlock()
	for _, e := range t.endpoints {
		e.stall.check(e, now)
	}
}

// stall is what was seen of an endpoint at the last check. Table.mu guards it.
type stall struct {
	ended   uint64        // attempts
	moved   time.Duration // when that was another number last, or nothing was under way
	excused int64         // attempts under way that are known to take long
}

// check compares with what was seen last. Streams do not count, nor does an endpoint
// whose latency is not known. When one ends of several, or after a second, those that
// still do not are excused, and the endpoint is tried with others.
func (s *stall) check(e *Endpoint, now time.Duration) {
	ended := e.ended.Load()
	under := int64(e.picked.Load()-ended) - e.streams.Load()
	s.excused = min(s.excused, max(under, 0))
	stalled := e.stalled.Load()
	switch {
	case stalled && (ended != s.ended || now-s.moved > longestStall):
		s.excused, s.moved, stalled = max(under, 0), now, false
	case ended != s.ended || under <= s.excused:
		s.moved, stalled = now, false
	default:
		seconds, _ := e.latency.read(now)
		limit := max(shortestStall, time.Duration(seconds*float64(time.Second)))
		stalled = seconds > 0 && now-s.moved > limit
	}
	s.ended = ended
	e.stalled.Store(stalled)
}
