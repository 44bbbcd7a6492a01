package balancer

import (
	"math"
	"slices"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
)

// View is what a policy chooses from.
type View struct {
	// Ready are the endpoints in rotation, at least one, without those that refuse what
	// others answer. Their weights are the configured ones times what slow start, failures
	// and zones make of them.
	Ready []Ready
	// Random is a source of random bits that all may use at once.
	Random func() uint64
	// Now is the time in which latencies are told.
	Now func() time.Duration

	refusing  []Ready // get their expected share at most, whatever the policy thinks of them
	refusals  uint64  // of all weight in rotation they have this part, in 2^-32
	elsewhere []Ready // with a connection, and of a zone that is not needed
	ejected   []Ready
	due       []Ready       // must have the next calls: a probe, or the first of a slow start
	again     time.Duration // when it will be different; 0 is when something happens
}

// child is a member as gRPC tells of it now.
type child struct {
	*member
	state  connectivity.State
	picker balancer.Picker
}

// view sorts what c has connections to by what is known of it now.
func (t *Table) view(c channel, children []child, s *Settings, own zone) View {
	t.mu.Lock()
	defer t.unlock()
	now := t.now()
	t.compare(now, &s.Ejection)
	v := View{Random: t.random, Now: t.now}
	var weights []float64
	for _, child := range children {
		t.connect(child.member, child.state, now)
		if child.state != connectivity.Ready {
			continue
		}
		r := Ready{child.Endpoint, weightOf(child.listed), child.member, child.picker}
		if r.Endpoint.ejection.out && !s.Ejection.Disabled {
			v.ejected = append(v.ejected, r)
			v.probe(r, now)
		} else {
			v.Ready = append(v.Ready, r)
			weights = append(weights, v.weight(r, now, s))
		}
	}
	if t.compareAnswers(now); t.comparing.Load() {
		v.look(failingTick)
	}
	if s.Ejection.compares() && t.watching(now) {
		v.look(t.interval / samples)
	}
	u := t.channels[c]
	enough := s.Ejection.PanicPercent / 100 * float64(len(u.members))
	if u.panicking = len(v.ejected) > 0 && (len(v.Ready) == 0 || float64(len(v.Ready)) < enough); u.panicking {
		for _, r := range v.ejected {
			v.Ready = append(v.Ready, r)
			weights = append(weights, v.weight(r, now, s))
		}
		v.ejected = nil
	} else {
		s.Zone.share(own, v.Ready, weights)
	}
	v.weigh(weights)
	u.show(v, s, now)
	return v
}

// connect notes what has become of a connection. When all channels had lost theirs, and
// one could not make another, the first that has one again finds what was perhaps
// started anew: what it did before is no fault of it.
func (t *Table) connect(m *member, state connectivity.State, now time.Duration) {
	e := m.Endpoint
	before := e.connected
	if m.state == connectivity.Ready {
		e.connected--
	}
	m.state = state
	defer func() { t.noteReach(e, before, state == connectivity.TransientFailure, now) }()
	switch {
	case state == connectivity.Ready:
		if e.connected++; e.broken {
			e.broken = false
			e.Refusals.Lapse()
			t.admit(e, reconnected, now)
		}
	case state == connectivity.TransientFailure && e.connected == 0:
		e.broken = true
	}
}

// weight is the one in the directory, less in slow start and for what fails. Policies
// that look at the load see failures there, too: the weight decides who is drawn of
// the idle, the load who is the lightest.
func (v *View) weight(r Ready, now time.Duration, s *Settings) float64 {
	e := r.Endpoint
	s.SlowStart.begin(e, now)
	part, again := s.SlowStart.part(e, now)
	v.look(again)
	if e.owed && part < 1 {
		v.due = append(v.due, r)
	}
	failing := e.failing.read(now)
	if failing > 0 {
		v.look(failingTick)
	}
	return float64(r.Weight) * part * min(1-failing, e.standing.trusted())
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
			v.elsewhere = append(v.elsewhere, r)
			continue
		}
		r.Weight = max(1, uint32(math.Round(weights[i]*scale)))
		rotation = append(rotation, r)
	}
	v.Ready = rotation
	v.setApart()
}

// mostWeight is the largest weight after scaling: as exact as Consul's weights are.
const mostWeight = 1 << 16

// probe sends the next call to an ejected endpoint if it is due.
func (v *View) probe(r Ready, now time.Duration) {
	switch x := &r.Endpoint.ejection; {
	case x.due(now):
		v.due = append(v.due, r)
		v.look(x.lasted)
	case x.lease != 0:
		v.look(time.Duration(x.lease) + x.lasted - now)
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
