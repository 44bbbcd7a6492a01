package balancer

import (
	"math"
	"slices"
	"time"
)

// View is what a policy chooses from.
type View struct {
	// Ready are the endpoints in rotation, at least one. Their weights are the
	// configured ones times what slow start, failures and zones make of them.
	Ready []Ready
	// Random is a source of random bits that all may use at once.
	Random func() uint64
	// Now is the time in which latencies are told.
	Now func() time.Duration

	spare []Ready       // with a connection, and not in rotation: of other zones first
	due   []Ready       // must have the next calls: a probe, or the first of a slow start
	again time.Duration // when it will be different; 0 is when something happens
}

// view sorts what is ready by what is known of it now.
func (t *Table) view(ready []Ready, members map[string]*member, s *Settings, own zone) View {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	t.compare(now, &s.Ejection)
	v := View{Random: t.random, Now: t.now}
	var ejected []Ready
	var weights []float64
	for _, r := range ready {
		e := r.Endpoint
		if r.member.broken { // perhaps it was started anew: what it did before is no fault of it
			r.member.broken = false
			t.admit(e, now)
		}
		if e.ejection.out && !s.Ejection.Disabled {
			ejected = append(ejected, r)
			v.probe(r, now, &s.Ejection)
			continue
		}
		s.SlowStart.begin(e, now)
		part, again := s.SlowStart.part(e, now)
		v.look(again)
		if e.owed {
			v.due = append(v.due, r)
		}
		failing := e.failing.read(now)
		if failing > 0 {
			v.look(failingTick)
		}
		v.Ready = append(v.Ready, r)
		weights = append(weights, float64(r.Weight)*part*(1-failing))
	}
	if t.watching(now, &s.Ejection) {
		v.look(time.Duration(s.Ejection.Interval) / samples)
	}
	enough := s.Ejection.PanicPercent / 100 * float64(len(members))
	if t.panicking = len(ejected) > 0 && (len(v.Ready) == 0 || float64(len(v.Ready)) < enough); t.panicking {
		v.Ready = ready
	} else {
		s.Zone.share(own, v.Ready, weights)
		v.weigh(weights)
		v.spare = append(v.spare, ejected...)
	}
	t.show(v, members)
	return v
}

// weigh gives the endpoints their weights, and takes those without one out of
// rotation. What is no whole number is scaled, since only the proportions matter.
func (v *View) weigh(weights []float64) {
	scale := 1.0
	for i := range v.Ready {
		if weights[i] != float64(v.Ready[i].Weight) {
			scale = mostWeight / slices.Max(weights)
			break
		}
	}
	rotation := v.Ready[:0]
	for i, r := range v.Ready {
		if weights[i] == 0 {
			v.spare = append(v.spare, r)
			continue
		}
		r.Weight = max(1, uint32(math.Round(weights[i]*scale)))
		rotation = append(rotation, r)
	}
	v.Ready = rotation
}

// mostWeight is the largest weight after scaling: as exact as Consul's weights are.
const mostWeight = 1 << 16

// probe sends the next call to an ejected endpoint if it is due.
func (v *View) probe(r Ready, now time.Duration, s *Ejection) {
	x := &r.Endpoint.ejection
	switch {
	case x.due(now):
		r.probe = true
		v.due = append(v.due, r)
		v.look(x.lasted)
	case x.probe:
		v.look(x.probed + x.lasted - now)
	default:
		v.look(x.until - now)
	}
}

// look asks for another view after a time at most, unless it is 0.
func (v *View) look(again time.Duration) {
	if again > 0 && (v.again == 0 || again < v.again) {
		v.again = again
	}
}
