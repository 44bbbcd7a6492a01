package balancer

import (
	"time"
)

// Reason is why an endpoint was ejected.
type Reason string

// The reasons.
const (
	ConsecutiveFailures Reason = "consecutive_failures"
	SuccessRate         Reason = "success_rate" // lower than that of the others
	Probe               Reason = "probe"        // it was out, and the call that probed it has failed
)

// ejection is the part of an endpoint's memory that decides whether it is in
// rotation. Table.mu guards it.
type ejection struct {
	consecutive int           // failures in a row
	failed      uint64        // failures ever
	counts      []count       // as they were, oldest first, while there are failures
	out         bool          // ejected
	reason      Reason        // if out
	until       time.Duration // if out, the time of the next probe; else the end of the last ejection
	lasted      time.Duration // the last one
	probe       bool          // one is on its way
	probed      time.Duration // when it was sent
}

// end counts the end of an attempt. Only a failure, or a success that comes after
// one, takes the lock.
func (e *Endpoint) end(o outcome, s *Ejection) {
	switch {
	case o == silent:
		e.ignored.Add(1)
	case o != answered || e.alert.Load():
		e.table.tell(e, o, s)
	}
	e.ended.Add(1)
}

// tell counts an outcome that matters. Those of an ejected endpoint are of calls
// that were under way, and change nothing.
func (t *Table) tell(e *Endpoint, o outcome, s *Ejection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if o == failed {
		t.watch(now, s)
		e.ejection.failed++
	}
	if !e.ejection.out {
		if e.failing.count(o != answered, now) {
			t.wake()
		}
		switch o {
		case answered:
			e.ejection.consecutive = 0
		case failed:
			e.ejection.consecutive++
			if limit := s.ConsecutiveFailures; limit > 0 && e.ejection.consecutive >= limit {
				t.eject(e, ConsecutiveFailures, now, s)
			}
		}
	}
	e.alert.Store(e.ejection.consecutive > 0 || e.failing.word.Load() != 0)
}

// eject takes e out of rotation, unless too many are.
func (t *Table) eject(e *Endpoint, why Reason, now time.Duration, s *Ejection) {
	if s.Disabled || !e.ejection.out && !t.mayEject(s) {
		return
	}
	x := &e.ejection
	lasts := time.Duration(s.BaseEjectionTime)
	if x.out || x.lasted > 0 && now-x.until < x.lasted {
		lasts = min(2*x.lasted, time.Duration(s.MaxEjectionTime)) // there was no time of health since
	}
	jitter := time.Duration(t.random() % uint64(lasts/10+1)) // clients that saw the same do not probe together
	*x = ejection{failed: x.failed, out: true, reason: why, until: now + lasts + jitter, lasted: lasts}
	t.ejections[why]++
	t.wake()
}

// mayEject reports whether one more may be out.
func (t *Table) mayEject(s *Ejection) bool {
	listed, out := 0, 0
	for _, e := range t.endpoints {
		if e.users > 0 {
			listed++
			if e.ejection.out {
				out++
			}
		}
	}
	return float64(out+1) <= s.MaxEjectionPercent/100*float64(listed)
}

// admit takes e back into rotation. It starts slowly, and with a clean record.
func (t *Table) admit(e *Endpoint, now time.Duration) {
	e.ejection = ejection{failed: e.ejection.failed, until: now, lasted: e.ejection.lasted}
	e.failing.word.Store(0)
	e.alert.Store(false)
	e.cold = true
	t.wake()
}

// due reports whether e has been out long enough for a probe. One that brings no
// answer, such as a long stream, is given up after the time of the ejection.
func (x *ejection) due(now time.Duration) bool {
	return x.out && now >= x.until && (!x.probe || now-x.probed >= x.lasted)
}

// owes reports whether e must have the next call, as a probe or as the first of its
// slow start, and notes that it has it.
func (t *Table) owes(e *Endpoint) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !e.ejection.out {
		owed := e.owed
		e.owed = false
		return owed
	}
	now := t.now()
	if !e.ejection.due(now) {
		return false
	}
	e.ejection.probe, e.ejection.probed = true, now
	return true
}

// proved ends a probe.
func (t *Table) proved(e *Endpoint, o outcome, s *Ejection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !e.ejection.out {
		return // it was admitted because its connection was made anew
	}
	switch now := t.now(); o {
	case answered:
		t.admit(e, now)
	case silent: // who called has given up
		e.ejection.probe = false
		t.wake()
	default:
		t.eject(e, Probe, now, s)
	}
}
