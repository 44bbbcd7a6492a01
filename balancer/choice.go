package balancer

import (
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// rotation chooses an endpoint for each attempt: it adds to a policy what is the same for all.
// It is immutable but for its counter.
type rotation struct {
	view       View
	policy     Picker
	timesAll   bool         // the policy needs the latency of every attempt
	firstCalls atomic.Int32 // how many of view.due were taken
}

// choose does not allocate, and takes no lock except for a call that an endpoint must get: a
// probe, which is not 0 then, or the first of its slow start. record may be nil.
func (r *rotation) choose(record *attempt.Record) (*Candidate, probe, error) {
	if record == nil {
		return r.pick()
	}
	record.SetCandidates(len(r.view.Candidates) + len(r.view.refusing) + len(r.view.otherZones))
	if avoid := record.Avoid(); avoid != nil {
		return r.pickAvoiding(record, avoid)
	}
	if record.Number() > 1 {
		if c := r.untried(record); c != nil {
			return c, 0, nil
		}
	}
	return r.pick()
}

// pick takes an endpoint that must get a call, or the policy's pick.
func (r *rotation) pick() (*Candidate, probe, error) {
	if len(r.view.due) > 0 {
		if c, probe := r.nextDue(nil); c != nil {
			return c, probe, nil
		}
	}
	return r.includeRefusing(r.policy.Pick()), 0, nil
}

// nextDue takes an endpoint that must get a call now, with the probe it is for, or nil. One
// that avoid excludes waits for the next picker.
func (r *rotation) nextDue(avoid *attempt.Avoid) (*Candidate, probe) {
	for int(r.firstCalls.Load()) < len(r.view.due) {
		n := int(r.firstCalls.Add(1))
		if n > len(r.view.due) {
			return nil, 0
		}
		c := &r.view.due[n-1]
		if avoid != nil && avoid.For(&c.Instance) > 0 {
			continue
		}
		if probe, due := c.table.takeDue(c.Endpoint); due {
			return c, probe
		}
	}
	return nil, 0
}

// includeRefusing returns best, the policy's pick, or a refusing endpoint: as often as the
// weights of those say, and only one without more load than best.
func (r *rotation) includeRefusing(best *Candidate) *Candidate {
	v := &r.view
	if v.refusingPart == 0 {
		return best
	}
	random := v.Random()
	if random>>32 >= v.refusingPart {
		return best
	}
	if c := v.drawRefusing(uint32(random)); !best.lighter(c) {
		return c
	}
	return best
}

// maxCompared bounds the endpoints that are compared for a retry.
const maxCompared = 16

// untried is the least loaded endpoint without an earlier attempt of the call: in rotation,
// else refusing, else of another zone, else ejected. Nil if there is none.
func (r *rotation) untried(record *attempt.Record) *Candidate {
	for _, candidates := range [][]Candidate{r.view.Candidates, r.view.refusing, r.view.otherZones, r.view.ejected} {
		best := r.lightest(candidates, func(c *Candidate) bool { return !record.Tried(c.Address) })
		if best != nil {
			return best
		}
	}
	return nil
}

// policyDraws is how often the policy picks before all candidates are compared.
const policyDraws = 3

// pickAvoiding picks an endpoint that avoid does not exclude: one that must get a call, the
// policy's pick, or the least loaded. A retry goes to an endpoint without an attempt of its
// call while there is one. Only calls with recent refusals get here.
func (r *rotation) pickAvoiding(record *attempt.Record, avoid *attempt.Avoid) (*Candidate, probe, error) {
	if len(r.view.due) > 0 && record.Number() == 1 {
		if c, probe := r.nextDue(avoid); c != nil {
			return c, probe, nil
		}
	}
	for range policyDraws {
		if c := r.includeRefusing(r.policy.Pick()); !record.Tried(c.Address) && avoid.For(&c.Instance) == 0 {
			return c, 0, nil
		}
	}
	best, shortest := r.allowed(record, avoid)
	if best == nil {
		return nil, 0, avoid.Err(shortest)
	}
	return best, 0, nil
}

// allowed is the least loaded endpoint that avoid does not exclude: in rotation, else
// refusing, else of another zone, else one tried before. Ejected endpoints fail. Without one,
// shortest is the time until the first may be picked.
func (r *rotation) allowed(record *attempt.Record, avoid *attempt.Avoid) (best *Candidate, shortest time.Duration) {
	var tried *Candidate
	for _, candidates := range [][]Candidate{r.view.Candidates, r.view.refusing, r.view.otherZones} {
		best = r.lightest(candidates, func(c *Candidate) bool {
			switch left := avoid.For(&c.Instance); {
			case left > 0:
				if shortest == 0 || left < shortest {
					shortest = left
				}
				return false
			case record.Tried(c.Address):
				tried = c
				return false
			default:
				return true
			}
		})
		if best != nil {
			return best, 0
		}
	}
	return tried, shortest
}

// lightest compares up to maxCompared eligible candidates, from a random one on.
func (r *rotation) lightest(candidates []Candidate, eligible func(*Candidate) bool) (best *Candidate) {
	if len(candidates) == 0 {
		return nil
	}
	start := int(r.view.Random() % uint64(len(candidates)))
	for compared, i := 0, 0; i < len(candidates) && compared < maxCompared; i++ {
		c := &candidates[(start+i)%len(candidates)]
		if !eligible(c) {
			continue
		}
		if compared++; best == nil || c.lighter(best) {
			best = c
		}
	}
	return best
}

// timedInterval: one in so many attempts is timed where the policy does not need all, the
// first of an endpoint included. Reading the clock twice costs more than the pick.
const timedInterval = 16

// Choice is the endpoint of one attempt, which is in flight until Done.
type Choice struct {
	member  *member
	record  *attempt.Record // may be nil
	probe   probe           // 0 if it is none
	method  methodInfo
	start   time.Duration
	counted atomic.Bool // the first response of a stream was counted
	replied bool        // the latency of an attempt that goes on was sampled
}

// begin starts the timer of an attempt on c.
func (x *Choice) begin(c *Candidate, method methodInfo, record *attempt.Record, probe probe) {
	x.member, x.record, x.probe, x.method = c.member, record, probe, method
	x.start = c.table.now()
	c.table.stallCheck.run(c.table, x.start)
	if method.kind == attempt.Stream {
		c.streams.Add(1)
	}
}

// Instance is the endpoint that was chosen. Do not change it.
func (x *Choice) Instance() *attempt.Instance { return &x.member.Instance }

// respond records the first response of a stream.
func (x *Choice) respond() {
	x.sampleLatency()
	if x.member.table.comparing.Load() && x.counted.CompareAndSwap(false, true) {
		x.member.answersTo(x.method.slot).ended.Add(1)
	}
	x.endProbe(Succeeded)
}

// Responded records that the endpoint has answered well and that its answer goes on, such as
// the body after the header of an HTTP response. The time until now is a sample of the latency.
// Call it once at most, and not at the time of Done.
func (x *Choice) Responded() {
	x.replied = true
	x.sampleLatency()
	x.endProbe(Succeeded)
	x.member.responded.Add(1)
	x.member.streams.Add(1)
}

func (x *Choice) sampleLatency() {
	now := x.member.table.now()
	x.member.latency.add(now-x.start, now)
}

// endProbe ends the probe, if the attempt is one. Only the first outcome counts.
func (x *Choice) endProbe(o Outcome) {
	if x.probe != 0 {
		x.member.table.endProbe(x.member.Endpoint, x.probe, o, &x.member.ejectionSettings)
	}
}

// Done ends the attempt. Call it once.
func (x *Choice) Done(result Result) {
	if x.record != nil {
		x.record.SetEnd(result.End)
	}
	member, o := x.member, result.Outcome
	if x.method.kind == attempt.Unary && (o == Succeeded || result.TimedOut) && !x.replied {
		x.sampleLatency()
	}
	x.endProbe(o)
	if x.replied || x.method.kind == attempt.Stream {
		member.streams.Add(-1)
	}
	member.Endpoint.end(o, &member.ejectionSettings)
	if o != Ignored && member.table.comparing.Load() {
		x.countAnswer(result)
	}
}

// countAnswer counts the answer for the comparison with other endpoints. A stream counts at its
// first response, and at its end only if it was refused.
func (x *Choice) countAnswer(result Result) {
	isRefused := result.Outcome != Succeeded
	if !isRefused && result.Unread {
		switch x.method.kind {
		case attempt.Unary: // a reply would have a message
			isRefused = true
		case attempt.Stream:
			if !x.counted.Load() {
				return // it counts when the caller reads that it ended well
			}
		}
	}
	answers := x.member.answersTo(x.method.slot)
	if x.method.kind != attempt.Stream || x.counted.CompareAndSwap(false, true) {
		answers.ended.Add(1)
	}
	if isRefused {
		answers.refused.Add(1)
		x.member.table.compareSoon()
	}
}

// Outcome classifies the end of an attempt by what it says about its endpoint.
type Outcome uint8

// The outcomes.
const (
	Ignored    Outcome = iota // nothing: the caller cancelled, or nothing was sent
	Succeeded                 // it works, and the answer is good
	Refused                   // it works, with an error that its caller may have caused
	Overloaded                // it works, and rejects load
	Failed                    // it does not work
)

// healthy reports whether the endpoint works and takes load.
func (o Outcome) healthy() bool { return o == Succeeded || o == Refused }

// Result is how an attempt ended.
type Result struct {
	Outcome Outcome
	End     attempt.End // for the record of the attempt
	// TimedOut: it has failed by its deadline. Its time is a sample of the latency, while an
	// attempt that failed at once has none.
	TimedOut bool
	// Unread: the transport has ended a call with a success that its caller has not read. It
	// may be an error.
	Unread bool
}

// A table remembers up to maxMethods methods with names of up to maxMethodLength bytes: a
// program that forwards calls may have any.
const (
	maxMethods      = 1024
	maxMethodLength = 1024
)

// methodInfo is what a table remembers of a method.
type methodInfo struct {
	kind attempt.Kind
	slot uint8 // where its answers are counted
}

// method looks each method up once, its kind by kindOf.
func (t *Table) method(name string, kindOf func(string) attempt.Kind) methodInfo {
	if m, ok := t.methods.Get(name); ok {
		return m
	}
	if t.methods.Full() || len(name) > maxMethodLength {
		return methodInfo{attempt.Unknown, comparedMethods - 1}
	}
	slot := uint8(min(t.slots.Add(1)-1, comparedMethods-1))
	return t.methods.Add(name, methodInfo{kindOf(name), slot})
}
