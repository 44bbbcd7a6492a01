package balancer

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/rendezvous"
	"github.com/meshlite-go/meshlite/internal/rpc"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// attemptPicker is the picker that gRPC calls for each attempt.
type attemptPicker struct {
	rotation
	table   *Table
	hashKey string // of metadata; empty is no hash
}

// connection is the child of an endpoint, which is ready. In a [Set] it is empty.
type connection struct {
	picker balancer.Picker
	done   func(balancer.DoneInfo) // made once, so that a pick allocates nothing
}

// Pick picks the endpoint of an attempt.
func (p *attemptPicker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	return p.PickRecorded(info, attempt.FromContext(info.Ctx))
}

// PickRecorded is Pick for who has the record of info.Ctx, which may be nil: a policy that is above
// several of this kind asserts for it. It does not allocate, except for streams: see
// rotation.choose.
func (p *attemptPicker) PickRecorded(info balancer.PickInfo, record *attempt.Record) (balancer.PickResult, error) {
	var now time.Duration // the clock costs more than the rest of a pick
	if p.timesAll {
		now = p.table.now()
	}
	var c *Candidate
	var probe probe
	if record == nil && p.plain && p.hashKey == "" {
		c = p.policy.Pick(now)
	} else {
		var err error
		if c, probe, err = p.chooseFor(&info, record, now); err != nil {
			return balancer.PickResult{}, err
		}
	}
	result, err := c.connection.picker.Pick(info)
	if err != nil {
		return result, err
	}
	n := c.picked.Add(1)
	stream := false
	if record != nil {
		record.SetPicked(&c.Endpoint.Instance)
		stream = record.Kind() == attempt.Stream
	}
	switch {
	case c.timing.due(n, p.timesAll) || stream || probe != 0 || result.Done != nil || p.table.comparing.Load():
		if !p.timesAll {
			now = p.table.now()
		}
		c.timing.timed(n, now)
		result.Done = track(c, info.FullMethodName, record, probe, now, result.Done)
	case record != nil:
		result.Done = report(c, record)
	default:
		result.Done = c.connection.done
	}
	return result, nil
}

// chooseFor chooses by the hash of a value of the call, or without one by the policy.
func (p *attemptPicker) chooseFor(info *balancer.PickInfo, record *attempt.Record, now time.Duration) (*Candidate, probe, error) {
	if p.hashKey != "" {
		if values := metadata.ValueFromOutgoingContext(info.Ctx, p.hashKey); len(values) > 0 {
			if c, probe := p.chooseByHash(rendezvous.Hash(values[0]), record); c != nil {
				return c, probe, nil
			}
		}
	}
	return p.choose(record, now)
}

// Endpoints counts those that may be picked, and those that are ejected. A policy that is above
// several of this kind asserts for it.
func (p *attemptPicker) Endpoints() (usable, ejected int) {
	return p.view.candidates(), p.view.ejections
}

// HasUntried reports whether an endpoint that may be picked has no attempt of the call of
// record.
func (p *attemptPicker) HasUntried(record *attempt.Record) bool { return p.view.hasUntried(record) }

func (v *View) hasUntried(record *attempt.Record) bool {
	for _, candidates := range v.usable() {
		for i := range candidates {
			if !record.Tried(candidates[i].Address) {
				return true
			}
		}
	}
	return false
}

const (
	// One in timedInterval attempts is timed, the first of an endpoint included, or each one for
	// a policy that needs latencies. Reading the clock costs more than the rest of a pick: where
	// timed ones follow each other within minTimedGap, the next ones are fewer, by half each
	// time, down to one in maxTimedInterval, or in eight.
	timedInterval    = 16
	maxTimedInterval = 8 * timedInterval
	minTimedGap      = 250 * time.Microsecond
)

// timing chooses which attempts of an endpoint are timed. Concurrent picks may time a few more.
type timing struct {
	last     atomic.Uint64 // number of the last timed attempt
	lastAt   atomic.Int64  // when it was picked
	interval atomic.Uint32 // between them; 0 before the first
}

// due reports whether the n-th attempt is timed. all is for policies that need latencies.
func (t *timing) due(n uint64, all bool) bool {
	interval := uint64(t.interval.Load())
	if all {
		interval /= timedInterval
	}
	return n-t.last.Load() >= interval
}

// timed records that the n-th attempt is timed, from now on.
func (t *timing) timed(n uint64, now time.Duration) {
	interval := t.interval.Load()
	switch gap := now - time.Duration(t.lastAt.Load()); {
	case interval == 0 || gap > 4*minTimedGap:
		interval = timedInterval
	case gap < minTimedGap:
		interval = min(2*interval, maxTimedInterval)
	}
	t.interval.Store(interval)
	t.lastAt.Store(int64(now))
	t.last.Store(n)
}

// trackedAttempt is an attempt with more to do at its end than to count and to record it: it is
// timed, a probe, or compared with others.
type trackedAttempt struct {
	Choice
	inner func(balancer.DoneInfo) // of the child, may be nil
	done  func(balancer.DoneInfo) // end, made once
}

// unaryAttempts are free ones. Streams are not reused: their first response may come while
// they end.
var unaryAttempts sync.Pool

func newUnary() *trackedAttempt {
	if a, ok := unaryAttempts.Get().(*trackedAttempt); ok {
		return a
	}
	return newTracked()
}

func newTracked() *trackedAttempt {
	a := &trackedAttempt{}
	a.done = a.end
	return a
}

// track starts the timer of an attempt. A stream is timed to its first response, which only a
// record reports. Attempts of unknown kind have no latency.
func track(c *Candidate, fullMethod string, record *attempt.Record, probe probe, now time.Duration, inner func(balancer.DoneInfo)) func(balancer.DoneInfo) {
	method := c.table.methods.of(fullMethod, kindOf)
	if method.kind == attempt.Unknown && record != nil {
		method.kind = record.Kind()
	}
	var a *trackedAttempt
	if method.kind == attempt.Stream {
		a = newTracked()
	} else {
		a = newUnary()
	}
	a.inner = inner
	a.begin(c, method, record, probe, now)
	if method.kind == attempt.Stream && record != nil {
		record.OnResponse(a.respond)
	}
	return a.done
}

// recordedAttempt is an attempt that is counted, and recorded how it ends.
type recordedAttempt struct {
	member *member
	record *attempt.Record
	done   func(balancer.DoneInfo) // end, made once
}

var recordedAttempts sync.Pool // free ones

func report(c *Candidate, record *attempt.Record) func(balancer.DoneInfo) {
	a, ok := recordedAttempts.Get().(*recordedAttempt)
	if !ok {
		a = &recordedAttempt{}
		a.done = a.end
	}
	a.member, a.record = c.member, record
	return a.done
}

func (a *recordedAttempt) end(info balancer.DoneInfo) {
	result := resultOf(&info)
	if info.Err != nil {
		a.record.SetTrailer(info.Trailer)
	}
	a.record.SetEnd(result.End)
	a.member.end(result.Outcome, &a.member.ejectionSettings)
	a.member, a.record = nil, nil
	recordedAttempts.Put(a)
}

// end ends the attempt, which is free then unless it is a stream.
func (a *trackedAttempt) end(info balancer.DoneInfo) {
	if a.inner != nil {
		a.inner(info)
	}
	if info.Err != nil && a.record != nil {
		a.record.SetTrailer(info.Trailer)
	}
	a.Done(resultOf(&info))
	if a.method.kind != attempt.Stream {
		a.member, a.record, a.inner = nil, nil, nil
		unaryAttempts.Put(a)
	}
}

// isPlainSuccess reports whether info is of a call that succeeded with nothing else to say. Then
// resultOf need not look further.
func isPlainSuccess(info *balancer.DoneInfo) bool {
	return info.Err == nil && info.BytesReceived && len(info.Trailer) == 0
}

// resultOf classifies info. Errors that the caller causes, such as NOT_FOUND, do not count
// against the endpoint.
func resultOf(info *balancer.DoneInfo) Result {
	end := attempt.Over
	if info.BytesSent {
		end |= attempt.Sent
	}
	if info.BytesReceived {
		end |= attempt.Received
	}
	if len(info.Trailer) > 0 {
		// An error that gRPC makes on this side has no trailer with the content type of an answer.
		if len(info.Trailer["content-type"]) > 0 {
			end |= attempt.Answer
		}
		if len(info.Trailer[wire.UnhandledKey]) > 0 {
			return Result{Outcome: Refused, End: end | attempt.Unhandled}
		}
	}
	if info.Err == nil && end&(attempt.Sent|attempt.Received) != 0 {
		// With an answer, gRPC found the end while it was sending, and reports no error.
		return Result{Outcome: Succeeded, End: end, Unread: end&attempt.Answer != 0}
	}
	code := rpc.Code(info.Err)
	o := outcomeOf(code, info.Err, end)
	return Result{Outcome: o, End: end, TimedOut: o == Failed && code == codes.DeadlineExceeded}
}

func outcomeOf(code codes.Code, err error, end attempt.End) Outcome {
	if end&(attempt.Sent|attempt.Received) == 0 && code != codes.DeadlineExceeded {
		return Ignored // nothing was sent: credentials have failed, or gRPC picks again
	}
	switch code {
	case codes.Canceled:
		if end&attempt.Answer != 0 {
			return Refused
		}
		return Ignored
	case codes.ResourceExhausted:
		return Overloaded
	case codes.Unavailable:
		if isOverloaded(err) {
			return Overloaded
		}
		return Failed
	case codes.Internal, codes.Unknown, codes.DataLoss, codes.DeadlineExceeded:
		return Failed
	case codes.OK:
		return Succeeded
	default:
		return Refused
	}
}

// isOverloaded reports whether a server answered UNAVAILABLE because of its concurrency limit.
func isOverloaded(err error) bool {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == wire.ErrorDomain && info.GetReason() == wire.ReasonOverloaded {
			return true
		}
	}
	return false
}

// kindOf is the kind of a method by its descriptor, if the program has it.
func kindOf(fullMethod string) attempt.Kind {
	name := strings.ReplaceAll(strings.TrimPrefix(fullMethod, "/"), "/", ".")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return attempt.Unknown
	}
	switch m, ok := found.(protoreflect.MethodDescriptor); {
	case !ok:
		return attempt.Unknown
	case m.IsStreamingClient() || m.IsStreamingServer():
		return attempt.Stream
	default:
		return attempt.Unary
	}
}
