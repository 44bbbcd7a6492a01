package balancer

import (
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

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

// begin starts the timer of an attempt on c at now.
func (x *Choice) begin(c *Candidate, method methodInfo, record *attempt.Record, probe probe, now time.Duration) {
	x.member, x.record, x.probe, x.method = c.member, record, probe, method
	x.start = now
	c.table.stallCheck.run(c.table, now)
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
	x.member.latency.add(now-x.start, now, latencyStep)
	x.member.peak.add(now-x.start, now, 0)
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

// methodTable is what a table remembers of methods.
type methodTable struct {
	rpc.Table[string, methodInfo]
	slots atomic.Uint32 // given to methods so far
}

// of looks each method up once, its kind by kindOf.
func (t *methodTable) of(name string, kindOf func(string) attempt.Kind) methodInfo {
	if m, ok := t.Get(name); ok {
		return m
	}
	if t.Full() || len(name) > maxMethodLength {
		return methodInfo{attempt.Unknown, comparedMethods - 1}
	}
	slot := uint8(min(t.slots.Add(1)-1, comparedMethods-1))
	return t.Add(name, methodInfo{kindOf(name), slot})
}
