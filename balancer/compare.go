package balancer

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	// Refusals are compared by method. The methods beyond these share the last slot: all
	// endpoints get the same mix of them.
	comparedMethods = 64
	// An answer counts for half after this time.
	answerHalfLife = 5 * time.Second
	// An endpoint refuses when it has refused fewestRefusals or more and its rate is above
	// that of the others by sigmas standard errors. It refuses no longer when it has
	// nearly no refusals left that count.
	fewestRefusals = 5
	fewestAnswers  = 5 // of the others together, to compare with
	forgotten      = 0.5
	sigmas         = 4
	// refusalMargin is the difference of rates from which an endpoint gets no more than its
	// expected share though there are too few answers yet to be sure.
	refusalMargin = 0.2
	// leastTrusted is the part of its weight that is left to one that refuses everything,
	// so that its recovery is noticed.
	leastTrusted = 1.0 / 32
	// compareEvery is how often a refusal leads to a comparison.
	compareEvery = 5 * time.Millisecond
	// compareRest is how many times as long as a comparison took no other is made.
	compareRest = 50
)

// answers counts what an endpoint has answered to one method while answers are compared.
type answers struct {
	ended   atomic.Uint64
	refused atomic.Uint64 // of them, those that were not OK

	// The rest is guarded by Table.mu: the counts at the last comparison, and the decayed ones.
	seenEnded, seenRefused uint64
	calls, refusals        float64
}

func (a *answers) rate() float64 { return a.refusals / a.calls }

// follow lets the counts decay by kept and adds what is new.
func (a *answers) follow(kept float64) {
	refused := a.refused.Load() // first: it is a part of what has ended
	ended := a.ended.Load()
	a.calls = a.calls*kept + float64(ended-a.seenEnded)
	a.refusals = a.refusals*kept + float64(refused-a.seenRefused)
	a.seenEnded, a.seenRefused = ended, refused
}

// compared is what an endpoint has answered, by the slots of the methods.
type compared [comparedMethods]atomic.Pointer[answers]

// standing is how an endpoint's answers compare with those of the others. Table.mu guards it.
type standing struct {
	refuses bool    // more than the others
	unsure  bool    // it seems so, or there is nothing to compare with
	excess  float64 // the part of its calls that the others would not have refused
}

// capped reports whether the endpoint gets no more than its expected share.
func (s standing) capped() bool { return s.refuses || s.unsure }

// trusted is the part of its weight that is left to it.
func (s standing) trusted() float64 { return max(1-s.excess, leastTrusted) }

// answersTo are the counts for the methods in slot, which it adds if need be.
func (e *Endpoint) answersTo(slot uint8) *answers {
	all := e.compared.Load()
	if all == nil {
		e.compared.CompareAndSwap(nil, new(compared))
		if all = e.compared.Load(); all == nil {
			return new(answers) // the comparison has just ended
		}
	}
	if a := all[slot].Load(); a != nil {
		return a
	}
	all[slot].CompareAndSwap(nil, new(answers))
	return all[slot].Load()
}

// beginComparing counts answers by method from now on, since one was not OK. Until then
// nothing is counted, and a pick costs nothing for it.
func (t *Table) beginComparing() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.comparing.Load() {
		return
	}
	for _, e := range t.endpoints {
		e.compared.Store(nil)
	}
	t.comparedAt = t.now()
	t.comparing.Store(true)
	t.wake()
}

// compareSoon compares after a refusal, if it is time, and waits for nobody: an
// endpoint that refuses at once must not draw calls for a second.
func (t *Table) compareSoon(now time.Duration) {
	if now < time.Duration(t.compareAt.Load()) || !t.mu.TryLock() {
		return
	}
	defer t.mu.Unlock()
	if t.compareAnswers(now) {
		t.wake()
	}
}

// compareAnswers compares the answers of all endpoints, and reports whether pickers must
// be made anew. The caller holds t.mu.
func (t *Table) compareAnswers(now time.Duration) (changed bool) {
	if !t.comparing.Load() || now < time.Duration(t.compareAt.Load()) {
		return false
	}
	kept := math.Exp2(-float64(now-t.comparedAt) / float64(answerHalfLife))
	t.comparedAt = now
	var sums [comparedMethods]sum
	left := 0.0
	for _, e := range t.endpoints {
		left += e.follow(kept, &sums)
	}
	if left < forgotten {
		t.comparing.Store(false)
	}
	for _, e := range t.endpoints {
		before := e.standing
		e.standing = e.stand(&sums)
		changed = changed || e.standing.capped() != before.capped() || math.Abs(e.standing.excess-before.excess) > 0.1
		if left < forgotten {
			e.compared.Store(nil)
		}
	}
	t.compareAt.Store(int64(now + max(compareEvery, compareRest*(t.now()-now))))
	return changed
}

// sum is what several endpoints have answered to one method. Each counts the same, since
// one that refuses at once may have had nearly all calls.
type sum struct {
	endpoints float64
	calls     float64
	rates     float64
	inverses  float64 // of their calls
}

func (s sum) plus(a *answers, n float64) sum {
	return sum{s.endpoints + n, s.calls + n*a.calls, s.rates + n*a.rate(), s.inverses + n/a.calls}
}

// follow brings the counts up to date, adds them to sums if they may serve as a measure,
// and returns the refusals that count still.
func (e *Endpoint) follow(kept float64, sums *[comparedMethods]sum) (refusals float64) {
	all := e.compared.Load()
	if all == nil {
		return 0
	}
	for slot := range all {
		a := all[slot].Load()
		if a == nil {
			continue
		}
		a.follow(kept)
		refusals += a.refusals
		if e.measures(a) {
			sums[slot] = sums[slot].plus(a, 1)
		}
	}
	return refusals
}

// measures reports whether others are compared with these counts of e.
func (e *Endpoint) measures(a *answers) bool {
	return e.users > 0 && !e.ejection.out && a.calls >= forgotten
}

// stand compares e with the others, method by method.
func (e *Endpoint) stand(sums *[comparedMethods]sum) standing {
	var s standing
	all := e.compared.Load()
	if all == nil || !e.table.comparing.Load() {
		return s
	}
	calls, excess := 0.0, 0.0
	for slot := range all {
		a := all[slot].Load()
		if a == nil || a.calls < forgotten {
			continue
		}
		others := sums[slot]
		if e.measures(a) {
			others = others.plus(a, -1)
		}
		more, sure, unsure := a.compare(others, e.standing.refuses)
		s.refuses = s.refuses || sure
		s.unsure = s.unsure || unsure
		calls += a.calls
		excess += more * a.calls
	}
	if calls > 0 {
		s.excess = excess / calls
	}
	return s
}

// compare returns by how much the rate is above that of the others, if it is sure that it
// is, and whether it is unsure: with nobody to compare with, or few calls.
func (a *answers) compare(others sum, refuses bool) (excess float64, sure, unsure bool) {
	if a.refusals < forgotten || a.refusals < fewestRefusals && !refuses {
		return 0, false, false
	}
	if others.calls < fewestAnswers || others.endpoints < 1 {
		return 0, false, true
	}
	mean := others.rates / others.endpoints
	p := (a.rate() + others.rates) / (others.endpoints + 1)
	variance := p * (1 - p) * (1/a.calls + others.inverses/(others.endpoints*others.endpoints))
	excess = a.rate() - mean
	if excess > 0 && excess*excess > sigmas*sigmas*variance {
		return excess, true, false
	}
	return 0, false, excess > refusalMargin
}
