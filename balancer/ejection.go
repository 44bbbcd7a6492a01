package balancer

import (
	"cmp"
	"log/slog"
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// Reason is why an endpoint was ejected.
type Reason string

// The reasons.
const (
	ConsecutiveFailures Reason = "consecutive_failures"
	SuccessRate         Reason = "success_rate" // lower than that of the others
	Probe               Reason = "probe"        // it was ejected, and its probe failed
)

// Why an ejected endpoint is readmitted.
const (
	probed      = "probe"        // its probe succeeded
	reconnected = "reconnected"  // it had lost all connections and has one again
	tooManyOut  = "too_many_out" // more were ejected than the settings allow
)

// ejectionState decides whether an endpoint is in rotation. Table.mu guards it.
type ejectionState struct {
	ejected     bool
	reason      Reason        // if ejected
	since       time.Duration // if ejected
	until       time.Duration // if ejected, the time of the next probe; else the end of the last ejection
	duration    time.Duration // of the last ejection
	probe       probe         // in flight, 0 if none is
	consecutive int           // failures in a row
	failures    uint64        // ever
	samples     []sample      // oldest first, while there are failures
}

// probe identifies a call that probes an ejected endpoint, by its start. A probe without an
// outcome expires after the duration of the ejection; its later outcome is ignored.
type probe time.Duration

// recordOutcome records an outcome that matters for ejection. Attempts on an ejected endpoint,
// in flight before or sent in a panic, do not change its ejection.
func (t *Table) recordOutcome(e *Endpoint, o Outcome, s *Ejection) {
	t.mu.Lock()
	defer t.unlock()
	now := t.now()
	if o == Failed {
		t.startSampling(now)
		e.ejection.failures++
	}
	if e.failureRate.add(!o.healthy(), now) {
		t.wake()
	}
	if e.ejection.ejected {
		e.impair(suspect, e.failureRate.word.Load() != 0)
		return
	}
	switch o {
	case Succeeded, Refused:
		e.ejection.consecutive = 0
	case Failed:
		e.ejection.consecutive++
		if limit := s.ConsecutiveFailures; limit > 0 && e.ejection.consecutive >= limit {
			t.eject(e, ConsecutiveFailures, now, s)
		}
	}
	e.impair(suspect, e.ejection.consecutive > 0 || e.failureRate.word.Load() != 0)
}

// eject takes e out of rotation, or extends its ejection, unless too many are ejected. The
// caller holds t.mu.
func (t *Table) eject(e *Endpoint, reason Reason, now time.Duration, s *Ejection) {
	x := &e.ejection
	if s.Disabled || !x.ejected && float64(t.ejected+1) > s.MaxEjectionPercent/100*float64(t.listed) {
		return
	}
	duration := time.Duration(s.BaseEjectionTime)
	if x.ejected || x.duration > 0 && now-x.until < x.duration {
		duration = min(2*x.duration, time.Duration(s.MaxEjectionTime)) // it was not healthy for long
	}
	if !x.ejected && e.users > 0 {
		t.ejected++
	}
	jitter := time.Duration(t.random() % uint64(duration/10+1)) // so that clients do not probe together
	since := now
	if x.ejected {
		since = x.since
	}
	*x = ejectionState{failures: x.failures, ejected: true, reason: reason, since: since, until: now + duration + jitter, duration: duration}
	t.ejections[reason]++
	t.logLater(e, "endpoint ejected", string(reason), slog.Duration("probe_in", duration+jitter))
	t.wake()
}

// admit resets e: it starts slowly, without its failures. The caller holds t.mu.
func (t *Table) admit(e *Endpoint, reason string, now time.Duration) {
	until := e.ejection.until
	if e.ejection.ejected {
		until = now
		if e.users > 0 {
			t.ejected--
		}
		t.logLater(e, "endpoint back", reason, slog.Duration("after", now-e.ejection.since))
	}
	e.ejection = ejectionState{failures: e.ejection.failures, until: until, duration: e.ejection.duration}
	e.failureRate.word.Store(0)
	e.answers.Store(nil)
	e.refusing = refusing{}
	e.impair(suspect, false)
	e.startsSlowly = true
	t.wake()
}

// enforceMaxEjection admits the endpoints with the earliest probes while more are ejected than
// allowed, because others have left. The caller holds t.mu.
func (t *Table) enforceMaxEjection(now time.Duration, s *Ejection) {
	for !s.Disabled && t.ejected > 0 && float64(t.ejected) > s.MaxEjectionPercent/100*float64(t.listed) {
		var first *Endpoint
		for _, e := range t.endpoints {
			if e.users > 0 && e.ejection.ejected && (first == nil || e.ejection.until < first.ejection.until) {
				first = e
			}
		}
		if first == nil {
			return // the ejected ones were replaced at their address
		}
		t.admit(first, tooManyOut, now)
	}
}

// probeDue reports whether the next call should be a probe, and none is in flight.
func (x *ejectionState) probeDue(now time.Duration) bool {
	return x.ejected && now >= x.until && (x.probe == 0 || now-time.Duration(x.probe) >= x.duration)
}

// isDue reports whether takeDue would take e.
func (t *Table) isDue(e *Endpoint, now time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.ejection.ejected {
		return e.ejection.probeDue(now)
	}
	return e.firstCallDue
}

// takeDue reports whether e must get the next call, as a probe or as the first call of its slow
// start, and records that it does.
func (t *Table) takeDue(e *Endpoint) (probe, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !e.ejection.ejected {
		due := e.firstCallDue
		e.firstCallDue = false
		return 0, due
	}
	now := t.now()
	if !e.ejection.probeDue(now) {
		return 0, false
	}
	e.ejection.probe = probe(max(now, 1))
	return e.ejection.probe, true
}

// endProbe ends a probe that has not expired.
func (t *Table) endProbe(e *Endpoint, p probe, o Outcome, s *Ejection) {
	t.mu.Lock()
	defer t.unlock()
	if e.ejection.probe != p {
		return
	}
	switch now := t.now(); o {
	case Failed:
		t.eject(e, Probe, now, s)
	case Ignored:
		e.ejection.probe = 0
		t.wake()
	default:
		t.admit(e, probed, now)
	}
}

// samplesPerInterval is how often the counts are sampled in an interval.
const samplesPerInterval = 10

// sample holds the counts of an endpoint at one time, or their difference between two.
type sample struct {
	at              time.Duration
	calls, failures uint64 // without calls with the outcome ignored
}

func (s sample) successRate() float64 { return 1 - float64(s.failures)/float64(max(s.calls, 1)) }

// minus is the difference to other. A call that is just being counted may be missing in s.
func (s sample) minus(other sample) sample {
	return sample{s.at, s.calls - min(s.calls, other.calls), s.failures - min(s.failures, other.failures)}
}

func (s sample) plus(other sample) sample {
	return sample{s.at, s.calls + other.calls, s.failures + other.failures}
}

// sample reads the counts of e.
func (e *Endpoint) sample(now time.Duration) sample {
	ignored := e.ignored.Load() // before ended, which includes them
	return sample{now, max(e.ended.Load()-ignored, e.ejection.failures), e.ejection.failures}
}

// startSampling starts sampling at the first failure: without failures there is no work. The
// caller holds t.mu.
func (t *Table) startSampling(now time.Duration) {
	if !t.sampling(now) {
		for _, e := range t.endpoints {
			e.ejection.samples = nil
		}
		t.sample(now)
		t.wake()
	}
	t.lastFailureAt = max(now, 1)
}

// sampling reports whether there were failures in the last interval.
func (t *Table) sampling(now time.Duration) bool {
	return t.lastFailureAt > 0 && now-t.lastFailureAt <= t.interval
}

// sample adds a sample to each endpoint and drops those before the interval. The caller holds
// t.mu.
func (t *Table) sample(now time.Duration) {
	t.sampledAt = now
	for _, e := range t.endpoints {
		x := &e.ejection
		x.samples = append(x.samples, e.sample(now))
		for len(x.samples) > 1 && now-x.samples[1].at >= t.interval {
			x.samples = x.samples[1:]
		}
	}
}

// successRates reports whether success rates are compared.
func (s *Ejection) successRates() bool { return !s.Disabled && s.SuccessRateMargin > 0 }

// ejectBySuccessRate ejects endpoints with a lower success rate in the interval than all others
// together, the lowest first. It runs ten times an interval, however many channels call it. The
// caller holds t.mu.
func (t *Table) ejectBySuccessRate(now time.Duration, s *Ejection) {
	if !s.successRates() || !t.sampling(now) || now-t.sampledAt < t.interval/samplesPerInterval {
		return
	}
	t.sample(now)
	type failing struct {
		*Endpoint
		sample
	}
	var candidates []failing
	var sum sample
	for _, e := range t.endpoints {
		if e.users > 0 && !e.ejection.ejected {
			inInterval := e.ejection.samples[len(e.ejection.samples)-1].minus(e.ejection.samples[0])
			sum = sum.plus(inInterval)
			if inInterval.failures > 0 {
				candidates = append(candidates, failing{e, inInterval})
			}
		}
	}
	slices.SortFunc(candidates, func(a, b failing) int {
		return cmp.Or(cmp.Compare(a.successRate(), b.successRate()), cmp.Compare(a.Address, b.Address))
	})
	volume := uint64(s.RequestVolume)
	for _, e := range candidates {
		others := sum.minus(e.sample)
		if e.calls < volume || others.calls < volume || others.successRate()-e.successRate() < s.SuccessRateMargin {
			continue
		}
		if t.eject(e.Endpoint, SuccessRate, now, s); e.ejection.ejected {
			sum = others
		}
	}
}

const (
	// Answers are compared by method. The methods beyond these share the last slot: all
	// endpoints get the same mix of them.
	comparedMethods = 64
	// answerHalfLife is the time after which an answer counts half.
	answerHalfLife = 5 * time.Second
	// An endpoint refuses from minRefusals on when its refusal rate exceeds that of the others
	// by refusalSigmas standard errors, until nearly no refusals count any more.
	minRefusals   = 5
	minAnswers    = 5   // of the others together, to compare with
	negligible    = 0.5 // fewer answers or refusals are not compared
	refusalSigmas = 4
	// refusalMargin is the difference of rates from which an endpoint is limited to its expected
	// share although there are too few answers to be sure.
	refusalMargin = 0.2
	// minRefusingWeight is the part of its weight that is left to an endpoint that refuses all
	// calls, so that its recovery is detected.
	minRefusingWeight = 1.0 / 32
	// minCompareInterval is the shortest time between comparisons, and compareRest bounds their
	// part of the time: that many times the duration of one passes before the next.
	minCompareInterval = 5 * time.Millisecond
	compareRest        = 50
)

// answers counts what an endpoint answered to one method while answers are compared.
type answers struct {
	ended   atomic.Uint64
	refused atomic.Uint64 // of them, those with another code than OK

	// Table.mu guards the rest: the counts at the last comparison, and decayed ones.
	lastEnded, lastRefused uint64
	calls, refusals        float64
}

// answersByMethod are the answers of an endpoint, by the slots of methods.
type answersByMethod [comparedMethods]atomic.Pointer[answers]

func (a *answers) refusalRate() float64 { return a.refusals / a.calls }

// update decays the counts and adds the new answers.
func (a *answers) update(decay float64) {
	refused := a.refused.Load() // first: ended includes it
	ended := a.ended.Load()
	a.calls = a.calls*decay + float64(ended-a.lastEnded)
	a.refusals = a.refusals*decay + float64(refused-a.lastRefused)
	a.lastEnded, a.lastRefused = ended, refused
}

// refusing is the result of comparing an endpoint's answers with those of the others. Table.mu
// guards it.
type refusing struct {
	certain   bool    // it refuses more than the others
	suspected bool    // probably, or there are no others to compare with
	excess    float64 // part of its calls that the others would not have refused
}

// limited reports whether the endpoint gets no more than its expected share.
func (r refusing) limited() bool { return r.certain || r.suspected }

// weight is the part of its weight that is left to the endpoint.
func (r refusing) weight() float64 { return max(1-r.excess, minRefusingWeight) }

// answersTo returns the counts of a slot, and makes them if needed.
func (e *Endpoint) answersTo(slot uint8) *answers {
	all := e.answers.Load()
	if all == nil {
		e.answers.CompareAndSwap(nil, new(answersByMethod))
		if all = e.answers.Load(); all == nil {
			return new(answers) // comparing has just ended
		}
	}
	if a := all[slot].Load(); a != nil {
		return a
	}
	all[slot].CompareAndSwap(nil, new(answers))
	return all[slot].Load()
}

// startComparing starts counting answers by method at the first one that is not OK. Until then
// picks do not pay for it.
func (t *Table) startComparing() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.comparing.Load() {
		return
	}
	for _, e := range t.endpoints {
		e.answers.Store(nil)
	}
	t.comparedAt = t.now()
	t.comparing.Store(true)
	t.wake()
}

// compareSoon compares after a refusal if it is time, and does not wait for the lock: an
// endpoint that refuses at once must not draw calls for a second.
func (t *Table) compareSoon() {
	now := t.now()
	if now < time.Duration(t.nextCompareAt.Load()) || !t.mu.TryLock() {
		return
	}
	defer t.mu.Unlock()
	if t.compareAnswers(now) {
		t.wake()
	}
}

// compareAnswers compares the answers of all endpoints, and reports whether pickers must be
// rebuilt. The caller holds t.mu.
func (t *Table) compareAnswers(now time.Duration) (changed bool) {
	if !t.comparing.Load() || now < time.Duration(t.nextCompareAt.Load()) {
		return false
	}
	decay := math.Exp2(-float64(now-t.comparedAt) / float64(answerHalfLife))
	t.comparedAt = now
	var sums [comparedMethods]answerSum
	refusals := 0.0
	for _, e := range t.endpoints {
		refusals += e.updateAnswers(decay, &sums)
	}
	if refusals < negligible {
		t.comparing.Store(false)
	}
	for _, e := range t.endpoints {
		before := e.refusing
		e.refusing = e.compareWith(&sums)
		changed = changed || e.refusing.limited() != before.limited() || math.Abs(e.refusing.excess-before.excess) > 0.1
		if refusals < negligible {
			e.answers.Store(nil)
		}
	}
	t.nextCompareAt.Store(int64(now + max(minCompareInterval, compareRest*(t.now()-now))))
	return changed
}

// answerSum sums the answers of several endpoints to one method. Rates are averaged over
// endpoints, since one that refuses at once may have had nearly all calls.
type answerSum struct {
	endpoints float64
	calls     float64
	rates     float64
	inverses  float64 // of their calls
}

func (s answerSum) plus(a *answers, n float64) answerSum {
	return answerSum{s.endpoints + n, s.calls + n*a.calls, s.rates + n*a.refusalRate(), s.inverses + n/a.calls}
}

// updateAnswers updates the counts, adds them to sums, and returns the decayed refusals.
func (e *Endpoint) updateAnswers(decay float64, sums *[comparedMethods]answerSum) (refusals float64) {
	all := e.answers.Load()
	if all == nil {
		return 0
	}
	for slot := range all {
		a := all[slot].Load()
		if a == nil {
			continue
		}
		a.update(decay)
		refusals += a.refusals
		if e.comparable(a) {
			sums[slot] = sums[slot].plus(a, 1)
		}
	}
	return refusals
}

// comparable reports whether others are compared with these counts of e.
func (e *Endpoint) comparable(a *answers) bool {
	return e.users > 0 && !e.ejection.ejected && a.calls >= negligible
}

// compareWith compares e with the others, method by method.
func (e *Endpoint) compareWith(sums *[comparedMethods]answerSum) refusing {
	var r refusing
	all := e.answers.Load()
	if all == nil || !e.table.comparing.Load() {
		return r
	}
	calls, excess := 0.0, 0.0
	for slot := range all {
		a := all[slot].Load()
		if a == nil || a.calls < negligible {
			continue
		}
		others := sums[slot]
		if e.comparable(a) {
			others = others.plus(a, -1)
		}
		method := a.compareWith(others, e.refusing.certain)
		r.certain = r.certain || method.certain
		r.suspected = r.suspected || method.suspected
		calls += a.calls
		excess += method.excess * a.calls
	}
	if calls > 0 {
		r.excess = excess / calls
	}
	return r
}

// compareWith tests whether the refusal rate exceeds that of the others (a two-proportion
// z-test). certain is the result of the last comparison.
func (a *answers) compareWith(others answerSum, certain bool) refusing {
	if a.refusals < negligible || a.refusals < minRefusals && !certain {
		return refusing{}
	}
	if others.calls < minAnswers || others.endpoints < 1 {
		return refusing{suspected: true}
	}
	mean := others.rates / others.endpoints
	p := (a.refusalRate() + others.rates) / (others.endpoints + 1)
	variance := p * (1 - p) * (1/a.calls + others.inverses/(others.endpoints*others.endpoints))
	excess := a.refusalRate() - mean
	if excess > 0 && excess*excess > refusalSigmas*refusalSigmas*variance {
		return refusing{certain: true, excess: excess}
	}
	return refusing{suspected: excess > refusalMargin}
}
