package balancer

import (
	"log/slog"
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
	since       time.Duration // if out
	until       time.Duration // if out, the time of the next probe; else the end of the last ejection
	lasted      time.Duration // the last one
	lease       lease         // of the probe that is on its way, 0 if none is
}

// lease is the right of one call to probe an endpoint: when it was given, since the
// table was made. A probe that brings no answer loses it after the time of the
// ejection, and what it brings later is of no matter.
type lease time.Duration

// end counts the end of an attempt. Only an outcome that is not good, or a good one
// soon after it, takes the lock.
func (e *Endpoint) end(o outcome, s *Ejection) {
	if o == silent {
		e.ended.Add(1)
		e.ignored.Add(1) // last, so that never more is ignored than has ended
		return
	}
	if o != answered && !e.table.comparing.Load() {
		e.table.beginComparing()
	}
	if !o.works() || e.suspect.Load() {
		e.table.tell(e, o, s)
	}
	e.ended.Add(1)
}

// tell counts an outcome that matters. Those of an ejected endpoint, whose calls were
// under way or came in a panic, do not decide on its ejection.
func (t *Table) tell(e *Endpoint, o outcome, s *Ejection) {
	t.mu.Lock()
	defer t.unlock()
	now := t.now()
	if o == failed {
		t.watch(now)
		e.ejection.failed++
	}
	if e.failing.count(!o.works(), now) {
		t.wake()
	}
	if e.ejection.out {
		e.suspect.Store(e.failing.word.Load() != 0)
		return
	}
	switch o {
	case answered, refused:
		e.ejection.consecutive = 0
	case failed:
		e.ejection.consecutive++
		if limit := s.ConsecutiveFailures; limit > 0 && e.ejection.consecutive >= limit {
			t.eject(e, ConsecutiveFailures, now, s)
		}
	}
	e.suspect.Store(e.ejection.consecutive > 0 || e.failing.word.Load() != 0)
}

// eject takes e out of rotation, or out for longer, unless too many are. The caller
// holds t.mu, as those of all that follows do.
func (t *Table) eject(e *Endpoint, why Reason, now time.Duration, s *Ejection) {
	x := &e.ejection
	if s.Disabled || !x.out && float64(t.out+1) > s.MaxEjectionPercent/100*float64(t.listed) {
		return
	}
	lasts := time.Duration(s.BaseEjectionTime)
	if x.out || x.lasted > 0 && now-x.until < x.lasted {
		lasts = min(2*x.lasted, time.Duration(s.MaxEjectionTime)) // there was no time of health since
	}
	if !x.out && e.users > 0 {
		t.out++
	}
	jitter := time.Duration(t.random() % uint64(lasts/10+1)) // clients that saw the same do not probe together
	since := now
	if x.out {
		since = x.since
	}
	*x = ejection{failed: x.failed, out: true, reason: why, since: since, until: now + lasts + jitter, lasted: lasts}
	t.ejections[why]++
	t.note(e, "endpoint ejected", string(why), slog.Duration("probe_in", lasts+jitter))
	t.wake()
}

// admit lets e begin anew: it starts slowly, and with a clean record.
func (t *Table) admit(e *Endpoint, why string, now time.Duration) {
	until := e.ejection.until
	if e.ejection.out {
		until = now
		if e.users > 0 {
			t.out--
		}
		t.note(e, "endpoint back", why, slog.Duration("after", now-e.ejection.since))
	}
	e.ejection = ejection{failed: e.ejection.failed, until: until, lasted: e.ejection.lasted}
	e.failing.word.Store(0)
	e.compared.Store(nil)
	e.standing = standing{}
	e.suspect.Store(false)
	e.cold = true
	t.wake()
}

// trim admits those that were ejected first while more are out than may be, because
// others have left.
func (t *Table) trim(now time.Duration, s *Ejection) {
	for !s.Disabled && t.out > 0 && float64(t.out) > s.MaxEjectionPercent/100*float64(t.listed) {
		var first *Endpoint
		for _, e := range t.endpoints {
			if e.users > 0 && e.ejection.out && (first == nil || e.ejection.until < first.ejection.until) {
				first = e
			}
		}
		if first == nil {
			return // those that are out were replaced at their address
		}
		t.admit(first, tooManyOut, now)
	}
}

// due reports whether e has been out long enough for a probe, and none is on its way.
func (x *ejection) due(now time.Duration) bool {
	return x.out && now >= x.until && (x.lease == 0 || now-time.Duration(x.lease) >= x.lasted)
}

// owes reports whether e must have the next call, as a probe, which gets a lease, or as
// the first of its slow start, and notes that it has it.
func (t *Table) owes(e *Endpoint) (lease, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !e.ejection.out {
		owed := e.owed
		e.owed = false
		return 0, owed
	}
	now := t.now()
	if !e.ejection.due(now) {
		return 0, false
	}
	e.ejection.lease = lease(max(now, 1))
	return e.ejection.lease, true
}

// proved ends a probe, if it has its lease still.
func (t *Table) proved(e *Endpoint, l lease, o outcome, s *Ejection) {
	t.mu.Lock()
	defer t.unlock()
	if e.ejection.lease != l {
		return
	}
	switch now := t.now(); o {
	case failed:
		t.eject(e, Probe, now, s)
	case silent: // who called has given up
		e.ejection.lease = 0
		t.wake()
	default:
		t.admit(e, probed, now)
	}
}
