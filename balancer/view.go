package balancer

import (
	"math"
	"slices"
	"time"
)

// View is what a policy picks from.
type View struct {
	// Candidates are the endpoints in rotation, at least one, without those that refuse what
	// others answer. A weight is the listed one, reduced by slow start, failures and zones.
	Candidates []Candidate
	// Random is a source of random bits, safe for concurrent use.
	Random func() uint64

	refusing     []Candidate // limited to their expected share
	refusingPart uint64      // of all weight in rotation, in 2^-32
	otherZones   []Candidate // connected, in zones that get no calls
	ejected      []Candidate
	ejections    int           // connected endpoints that are ejected, also in a panic
	due          []Candidate   // must get the next calls: probes and first calls of slow starts
	validFor     time.Duration // when to rebuild; 0 is at the next event
}

// child is a member with its state now.
type child struct {
	*member
	state      reachability
	connection connection
}

// newView sorts the connected children of c by the state of the table.
func newView(t *Table, c channel, children []child, s *Settings, own zone) View {
	t.mu.Lock()
	defer t.unlock()
	now := t.now()
	t.ejectBySuccessRate(now, &s.Ejection)
	v := View{Random: t.random}
	var weights []float64
	for _, child := range children {
		t.setState(child.member, child.state, now)
		if child.state != connected {
			continue
		}
		c := Candidate{child.Endpoint, child.listed.weight, child.member, child.connection}
		if c.ejection.ejected && !s.Ejection.Disabled {
			v.ejected = append(v.ejected, c)
			v.addProbe(c, now)
		} else {
			v.Candidates = append(v.Candidates, c)
			weights = append(weights, v.weight(c, now, s))
		}
	}
	v.ejections = len(v.ejected)
	if t.compareAnswers(now); t.comparing.Load() {
		v.rebuildAfter(weightInterval)
	}
	if s.Ejection.successRates() && t.sampling(now) {
		v.rebuildAfter(t.interval / samplesPerInterval)
	}
	u := t.channels[c]
	enough := s.Ejection.PanicPercent / 100 * float64(len(u.members))
	if u.panicking = len(v.ejected) > 0 && (len(v.Candidates) == 0 || float64(len(v.Candidates)) < enough); u.panicking {
		for _, c := range v.ejected {
			v.Candidates = append(v.Candidates, c)
			weights = append(weights, v.weight(c, now, s))
		}
		v.ejected = nil
	} else {
		s.Zone.apply(own, v.Candidates, weights)
	}
	v.setWeights(weights)
	u.summarize(v, s, now)
	return v
}

// weightInterval is how often weights follow failure and refusal rates.
const weightInterval = time.Second

// weight is the listed one, reduced by slow start, failures and refusals. Policies that compare
// loads see failures there too: among idle endpoints the weight decides, among busy ones the
// load.
func (v *View) weight(c Candidate, now time.Duration, s *Settings) float64 {
	e := c.Endpoint
	if e.startsSlowly {
		e.startsSlowly, e.firstCallDue, e.slowStarted, e.slowStartAt = false, true, true, now
	}
	part, next := s.SlowStart.of(e, now)
	v.rebuildAfter(next)
	if e.firstCallDue && part < 1 {
		v.due = append(v.due, c)
	}
	failureRate := e.failureRate.read(now)
	if failureRate > 0 {
		v.rebuildAfter(weightInterval)
	}
	return float64(c.Weight) * part * min(1-failureRate, e.refusing.weight())
}

// maxWeight is the largest weight after scaling: the precision of Consul's weights.
const maxWeight = 1 << 16

// Fractions are scaled to this mean, and to this sum at least: a precision of about 1 % of an
// endpoint's share. Each step of a slow start takes a schedule whose length is the sum.
const (
	meanFraction = 128
	minFractions = 1024
)

// setWeights sets the weights of the candidates, and takes those without one out of rotation.
// Fractions are scaled to whole numbers, since only proportions matter.
func (v *View) setWeights(weights []float64) {
	scale := 1.0
	for i := range v.Candidates {
		if weights[i] != float64(v.Candidates[i].Weight) {
			scale = fractionScale(weights)
			break
		}
	}
	rotation := v.Candidates[:0]
	for i, c := range v.Candidates {
		if weights[i] == 0 {
			v.otherZones = append(v.otherZones, c)
			continue
		}
		c.Weight = max(1, uint32(math.Round(weights[i]*scale)))
		rotation = append(rotation, c)
	}
	v.Candidates = rotation
	v.separateRefusing()
}

// fractionScale is what weights are multiplied by before they are rounded.
func fractionScale(weights []float64) float64 {
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	return min(maxWeight/slices.Max(weights), max(minFractions, float64(meanFraction*len(weights)))/sum)
}

// separateRefusing takes the endpoints that refuse more than others out of Candidates, unless
// all do. Policies compare load and latency, and an endpoint that refuses at once seems to have
// little of both.
func (v *View) separateRefusing() {
	var others []Candidate
	var all, refusing uint64
	for _, c := range v.Candidates {
		all += uint64(c.Weight)
		if c.Endpoint.refusing.limited() {
			refusing += uint64(c.Weight)
			v.refusing = append(v.refusing, c)
		} else {
			others = append(others, c)
		}
	}
	if len(v.refusing) == 0 || len(others) == 0 {
		v.refusing = nil
		return
	}
	v.Candidates = others
	v.refusingPart = refusing << 32 / all
}

// drawRefusing draws one of the refusing by weight.
func (v *View) drawRefusing(random uint32) *Candidate {
	var all uint64
	for i := range v.refusing {
		all += uint64(v.refusing[i].Weight)
	}
	left := uint64(random) * all >> 32
	for i := range v.refusing {
		weight := uint64(v.refusing[i].Weight)
		if left < weight {
			return &v.refusing[i]
		}
		left -= weight
	}
	return &v.refusing[0]
}

// inRotation are the endpoints that get calls.
func (v *View) inRotation() []Candidate { return slices.Concat(v.Candidates, v.refusing) }

// addProbe makes the next call to an ejected endpoint a probe if one is due.
func (v *View) addProbe(c Candidate, now time.Duration) {
	switch x := &c.Endpoint.ejection; {
	case x.probeDue(now):
		v.due = append(v.due, c)
		v.rebuildAfter(x.duration)
	case x.probe != 0:
		v.rebuildAfter(time.Duration(x.probe) + x.duration - now)
	default:
		v.rebuildAfter(x.until - now)
	}
}

// rebuildAfter makes the view valid for d at most, unless d is 0.
func (v *View) rebuildAfter(d time.Duration) {
	if d > 0 && (v.validFor == 0 || d < v.validFor) {
		v.validFor = d
	}
}

// Part is the part of its weight that an endpoint has when its slow start began that long ago:
// the curve of Envoy's slow start mode.
func (s SlowStart) Part(since time.Duration) float64 {
	if since >= time.Duration(s.Window) {
		return 1
	}
	past := float64(since) / float64(s.Window)
	return max(math.Pow(past, 1/s.Aggression), s.MinWeightPercent/100)
}

// slowStartSteps is how many weights an endpoint has in its slow start. Pickers are immutable,
// so each step takes a new one.
const slowStartSteps = 20

// of is the part of its weight that e has now, and the time to the next step, or 0. The caller
// holds Table.mu.
func (s SlowStart) of(e *Endpoint, now time.Duration) (part float64, next time.Duration) {
	window, since := time.Duration(s.Window), now-e.slowStartAt
	if !e.slowStarted || since >= window {
		return 1, 0
	}
	return s.Part(since), min(window/slowStartSteps, window-since)
}

// zone is where a channel or an endpoint runs.
type zone struct{ region, name string }

// has reports whether other is the zone z. An unknown region is the same.
func (z zone) has(other zone) bool {
	return z.name != "" && z.name == other.name && (z.region == "" || other.region == "" || z.region == other.region)
}

// apply multiplies weights so that calls stay in the zone own as far as its capacity allows for
// the callers there. The rest goes to the other zones in proportion to their spare capacity, as
// in Envoy's zone aware routing. Without a preference weights stay.
func (s Zone) apply(own zone, candidates []Candidate, weights []float64) {
	if s.Disabled || own.name == "" {
		return
	}
	capacity := map[zone]float64{}
	var all, local float64
	for i := range candidates {
		z := candidates[i].member.listed.zone
		if own.has(z) {
			z = own
			local += weights[i]
		}
		capacity[z] += weights[i]
		all += weights[i]
	}
	if local == 0 || local == all {
		return
	}
	callers := s.Callers
	if callers == 0 {
		callers = 1 / float64(len(capacity))
	}
	stay := min(local/all/callers, 1)
	otherCallers := (1 - callers) / float64(len(capacity)-1) // of each other zone
	spare := map[zone]float64{}
	var sum float64
	for z, c := range capacity {
		if z != own {
			spare[z] = max(c/all-otherCallers, 0)
			sum += spare[z]
		}
	}
	for i := range candidates {
		switch z := candidates[i].member.listed.zone; {
		case own.has(z):
			weights[i] *= stay / local
		case stay == 1 || sum == 0:
			weights[i] = 0
		default:
			weights[i] *= (1 - stay) * spare[z] / sum / capacity[z]
		}
	}
}
