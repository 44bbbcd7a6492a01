package balancer

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// attemptPicker is the picker that gRPC calls for each attempt. It wraps the policy's with
// what is the same for all policies.
type attemptPicker struct {
	view       View
	policy     Picker
	timesAll   bool         // the policy needs the latency of every attempt
	firstCalls atomic.Int32 // how many of view.due were taken
}

// Pick does not allocate, and takes no lock except for a call that an endpoint must get: a
// probe, or the first of its slow start.
func (p *attemptPicker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	record := attempt.FromContext(info.Ctx)
	if record == nil {
		return p.pick(info, nil)
	}
	record.SetCandidates(len(p.view.Candidates) + len(p.view.refusing) + len(p.view.otherZones))
	if avoid := record.Avoid(); avoid != nil {
		return p.pickAvoiding(info, record, avoid)
	}
	if record.Number() > 1 {
		if c := p.untried(record); c != nil {
			return p.send(c, info, record, 0)
		}
	}
	return p.pick(info, record)
}

// pick takes an endpoint that must get a call, or the policy's pick.
func (p *attemptPicker) pick(info balancer.PickInfo, record *attempt.Record) (balancer.PickResult, error) {
	if len(p.view.due) > 0 {
		if c, probe := p.nextDue(nil); c != nil {
			return p.send(c, info, record, probe)
		}
	}
	return p.send(p.includeRefusing(p.policy.Pick()), info, record, 0)
}

// nextDue takes an endpoint that must get a call now, with the probe it is for, or nil. One
// that avoid excludes waits for the next picker.
func (p *attemptPicker) nextDue(avoid *attempt.Avoid) (*Candidate, probe) {
	for int(p.firstCalls.Load()) < len(p.view.due) {
		n := int(p.firstCalls.Add(1))
		if n > len(p.view.due) {
			return nil, 0
		}
		c := &p.view.due[n-1]
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
func (p *attemptPicker) includeRefusing(best *Candidate) *Candidate {
	v := &p.view
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
func (p *attemptPicker) untried(record *attempt.Record) *Candidate {
	for _, candidates := range [][]Candidate{p.view.Candidates, p.view.refusing, p.view.otherZones, p.view.ejected} {
		best := p.lightest(candidates, func(c *Candidate) bool { return !record.Tried(c.Address) })
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
func (p *attemptPicker) pickAvoiding(info balancer.PickInfo, record *attempt.Record, avoid *attempt.Avoid) (balancer.PickResult, error) {
	if len(p.view.due) > 0 && record.Number() == 1 {
		if c, probe := p.nextDue(avoid); c != nil {
			return p.send(c, info, record, probe)
		}
	}
	for range policyDraws {
		if c := p.includeRefusing(p.policy.Pick()); !record.Tried(c.Address) && avoid.For(&c.Instance) == 0 {
			return p.send(c, info, record, 0)
		}
	}
	best, shortest := p.allowed(record, avoid)
	if best == nil {
		return balancer.PickResult{}, avoid.Err(shortest)
	}
	return p.send(best, info, record, 0)
}

// allowed is the least loaded endpoint that avoid does not exclude: in rotation, else
// refusing, else of another zone, else one tried before. Ejected endpoints fail. Without one,
// shortest is the time until the first may be picked.
func (p *attemptPicker) allowed(record *attempt.Record, avoid *attempt.Avoid) (best *Candidate, shortest time.Duration) {
	var tried *Candidate
	for _, candidates := range [][]Candidate{p.view.Candidates, p.view.refusing, p.view.otherZones} {
		best = p.lightest(candidates, func(c *Candidate) bool {
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
func (p *attemptPicker) lightest(candidates []Candidate, eligible func(*Candidate) bool) (best *Candidate) {
	if len(candidates) == 0 {
		return nil
	}
	start := int(p.view.Random() % uint64(len(candidates)))
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

// send sends the attempt to c: it is in flight until gRPC calls Done. It does not allocate,
// except for streams. probe is 0 if it is none.
func (p *attemptPicker) send(c *Candidate, info balancer.PickInfo, record *attempt.Record, probe probe) (balancer.PickResult, error) {
	result, err := c.child.Pick(info)
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
	case n%timedInterval == 1 || p.timesAll || stream || c.table.comparing.Load() || probe != 0 || result.Done != nil:
		result.Done = track(c, info.FullMethodName, record, probe, result.Done)
	case record != nil:
		result.Done = report(c, record)
	default:
		result.Done = c.member.done
	}
	return result, nil
}

// trackedAttempt is an attempt with more to do at its end than to count it: it is timed, has a
// record, or is a probe.
type trackedAttempt struct {
	member  *member
	record  *attempt.Record // may be nil
	timed   bool
	probe   probe // 0 if it is none
	method  methodInfo
	start   time.Duration
	counted atomic.Bool             // the first response of a stream was counted
	inner   func(balancer.DoneInfo) // of the child, may be nil
	done    func(balancer.DoneInfo) // end, made once
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
func track(c *Candidate, fullMethod string, record *attempt.Record, probe probe, inner func(balancer.DoneInfo)) func(balancer.DoneInfo) {
	method := c.table.methods.info(fullMethod)
	if method.kind == attempt.Unknown && record != nil {
		method.kind = record.Kind()
	}
	var a *trackedAttempt
	if method.kind == attempt.Stream {
		a = newTracked()
	} else {
		a = newUnary()
	}
	a.member, a.record, a.timed, a.probe, a.inner, a.method = c.member, record, true, probe, inner, method
	a.start = c.table.now()
	c.table.stallCheck.run(c.table, a.start)
	if method.kind == attempt.Stream {
		c.streams.Add(1)
		if record != nil {
			record.OnResponse(a.responded)
		}
	}
	return a.done
}

// report only records how the attempt ends.
func report(c *Candidate, record *attempt.Record) func(balancer.DoneInfo) {
	a := newUnary()
	a.member, a.record, a.timed, a.probe, a.method = c.member, record, false, 0, methodInfo{kind: attempt.Unary}
	return a.done
}

// responded is called at the first response of a stream.
func (a *trackedAttempt) responded() {
	a.sampleLatency()
	if a.member.table.comparing.Load() && a.counted.CompareAndSwap(false, true) {
		a.member.answersTo(a.method.slot).ended.Add(1)
	}
	a.endProbe(succeeded)
}

func (a *trackedAttempt) sampleLatency() {
	now := a.member.table.now()
	a.member.latency.add(now-a.start, now)
}

// endProbe ends the probe, if the attempt is one. Only the first outcome counts.
func (a *trackedAttempt) endProbe(o outcome) {
	if a.probe != 0 {
		a.member.table.endProbe(a.member.Endpoint, a.probe, o, &a.member.ejectionSettings)
	}
}

// end counts the attempt. An attempt that failed at once has no latency, one that exceeded its
// deadline has.
func (a *trackedAttempt) end(info balancer.DoneInfo) {
	if a.inner != nil {
		a.inner(info)
	}
	o, end := outcomeOf(&info)
	if a.record != nil {
		a.record.SetEnd(end)
	}
	member, stream := a.member, a.method.kind == attempt.Stream
	if a.timed {
		timedOut := o == failed && codeOf(info.Err) == codes.DeadlineExceeded
		if a.method.kind == attempt.Unary && (o == succeeded && info.Err == nil || timedOut) {
			a.sampleLatency()
		}
		a.endProbe(o)
	}
	if stream {
		member.streams.Add(-1)
	}
	member.Endpoint.end(o, &member.ejectionSettings)
	if a.timed && o != ignored && member.table.comparing.Load() {
		a.countAnswer(o, end, info.Err)
	}
	if !stream {
		a.member, a.record, a.inner = nil, nil, nil
		unaryAttempts.Put(a)
	}
}

// countAnswer counts the answer for the comparison with other endpoints. A stream counts at its
// first response, and at its end only if it was refused.
func (a *trackedAttempt) countAnswer(o outcome, end attempt.End, err error) {
	isRefused := err != nil || o == refused
	if err == nil && end&attempt.Answer != 0 { // gRPC found the end while it was sending, and reports no error
		switch a.method.kind {
		case attempt.Unary: // a reply would have a message
			isRefused = true
		case attempt.Stream:
			if !isRefused && !a.counted.Load() {
				return // it counts when the caller reads that it ended well
			}
		}
	}
	answers := a.member.answersTo(a.method.slot)
	if a.method.kind != attempt.Stream || a.counted.CompareAndSwap(false, true) {
		answers.ended.Add(1)
	}
	if isRefused {
		answers.refused.Add(1)
		a.member.table.compareSoon()
	}
}

// outcome classifies the end of an attempt by what it says about its endpoint.
type outcome uint8

const (
	ignored    outcome = iota // nothing: the caller cancelled, or nothing was sent
	succeeded                 // it works, and the code is OK
	refused                   // it works, with another code
	overloaded                // it works, and rejects load
	failed                    // it does not work
)

// healthy reports whether the endpoint works and takes load.
func (o outcome) healthy() bool { return o == succeeded || o == refused }

// outcomeOf classifies info. Errors that the caller causes, such as NOT_FOUND, do not count
// against the endpoint.
func outcomeOf(info *balancer.DoneInfo) (outcome, attempt.End) {
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
			return refused, end | attempt.Unhandled
		}
	}
	if info.Err == nil && end&(attempt.Sent|attempt.Received) != 0 {
		return succeeded, end
	}
	return outcomeOfError(info.Err, end), end
}

func outcomeOfError(err error, end attempt.End) outcome {
	code := codeOf(err)
	if end&(attempt.Sent|attempt.Received) == 0 && code != codes.DeadlineExceeded {
		return ignored // nothing was sent: credentials have failed, or gRPC picks again
	}
	switch code {
	case codes.Canceled:
		if end&attempt.Answer != 0 {
			return refused
		}
		return ignored
	case codes.ResourceExhausted:
		return overloaded
	case codes.Unavailable:
		if isOverloaded(err) {
			return overloaded
		}
		return failed
	case codes.Internal, codes.Unknown, codes.DataLoss, codes.DeadlineExceeded:
		return failed
	case codes.OK:
		return succeeded
	default:
		return refused
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

func codeOf(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	return status.FromContextError(err).Code()
}

// A table remembers up to maxMethods methods with names of up to maxMethodLength bytes: a
// program that forwards calls may have any.
const (
	maxMethods      = 1024
	maxMethodLength = 1024
)

// methodInfo is what a table remembers of a method.
type methodInfo struct {
	kind attempt.Kind // by its descriptor, if the program has it
	slot uint8        // where its answers are counted
}

// methods remembers methods, each looked up once. The zero value is ready for use.
type methods struct {
	byName atomic.Pointer[map[string]methodInfo]
}

func (m *methods) info(fullMethod string) methodInfo {
	old := m.byName.Load()
	var all map[string]methodInfo
	if old != nil {
		all = *old
		if one, ok := all[fullMethod]; ok {
			return one
		}
	}
	if len(all) >= maxMethods || len(fullMethod) > maxMethodLength {
		return methodInfo{attempt.Unknown, comparedMethods - 1}
	}
	one := methodInfo{kindOf(fullMethod), uint8(min(len(all), comparedMethods-1))}
	next := map[string]methodInfo{fullMethod: one}
	maps.Copy(next, all)
	m.byName.CompareAndSwap(old, &next) // the loser looks its method up again
	return one
}

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
