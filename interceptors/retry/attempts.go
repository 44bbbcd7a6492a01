package retry

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/rpc"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// Attempt is the event of an attempt that ended. Methods that are not retried publish none.
// An observer receives a pointer, which is valid until it returns.
type Attempt struct {
	Number   int               // 1 is the first
	Instance *attempt.Instance // nil when no picker reported one
	Code     codes.Code
	Verdict  Verdict
	Wait     time.Duration // before the next attempt, when Verdict is Again
}

// Verdict is what follows an attempt.
type Verdict string

// Only [Again] leads to another attempt.
const (
	Answered  Verdict = "answered"  // the code is OK
	Again     Verdict = "again"     // it is retried
	Final     Verdict = "final"     // the rule does not retry the code
	Exhausted Verdict = "exhausted" // max_attempts is reached
	Refused   Verdict = "refused"   // the server forbids a retry, or does not set the wait
	Late      Verdict = "late"      // the call would end before the next attempt
	Overspent Verdict = "overspent" // the budget is empty
)

// Stage is [interceptors.Retry].
func (a *Attempt) Stage() interceptors.Stage { return interceptors.Retry }

// Result is the verdict.
func (a *Attempt) Result() string { return string(a.Verdict) }

// StatusCode is the code that the attempt ended with.
func (a *Attempt) StatusCode() codes.Code { return a.Code }

// method retries the calls of one method.
type method struct {
	meta      *interceptors.CallMeta
	rule      rule
	ruled     bool // the rule's codes, waits and timeout apply
	budget    *budget
	publisher *interceptors.Publisher
	recorded  atomic.Bool // the picker records how attempts end

	merged atomic.Pointer[merged] // with the latest route that adds something
}

// merged is a method with what a route adds to its rule.
type merged struct {
	route *attempt.Retry
	*method
}

// on is m for a call that a route leads to an arm: the route may add to the rule if the call may
// run twice.
func (m *method) on(route *attempt.Route) *method {
	if route == nil || route.Retry == nil || !m.meta.Retryable() {
		return m
	}
	if latest := m.merged.Load(); latest != nil && latest.route == route.Retry {
		return latest.method
	}
	made := &method{meta: m.meta, rule: m.rule.with(route.Retry), ruled: true, budget: m.budget, publisher: m.publisher}
	made.recorded.Store(m.recorded.Load())
	m.merged.Store(&merged{route.Retry, made})
	return made
}

// attemptsWithoutRule is how many attempts a call without a rule has when no handler has run
// all but the last.
const attemptsWithoutRule = 3

// withoutRule retries calls that no handler has run. It is nil if the policy allows one attempt.
func (r *Retry) withoutRule(meta *interceptors.CallMeta) *method {
	rule := newRule(meta.Policy.GetRetry())
	if rule.attempts == 1 {
		return nil
	}
	rule.attempts = max(rule.attempts, attemptsWithoutRule)
	return &method{meta: meta, rule: rule, budget: newBudget(rule.budget), publisher: r.publisher}
}

// unary makes attempts until one is not followed by another, and returns the error of the last.
func (m *method) unary(ctx context.Context, name string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	options := newCallOptions(opts)
	ctx, record := attempt.FromOrNew(ctx, attempt.Unary)
	m = m.on(record.Route())
	m.budget.earn()
	for {
		result := m.attempt(ctx, record, options, func(ctx context.Context, opts []grpc.CallOption) error {
			return invoker(ctx, name, req, reply, cc, opts...)
		})
		again, err := m.again(ctx, record, result)
		if !again {
			options.finish.Run(err)
			return err
		}
		record = record.Next()
		options.reset(reply)
	}
}

// result is how an attempt ended.
type result struct {
	err      error
	trailer  metadata.MD // of a failure, with a rule only
	timedOut bool        // by the timeout of the attempt, not of the call
}

// attempt makes one attempt. Without a rule it costs nothing beyond the call.
func (m *method) attempt(ctx context.Context, record *attempt.Record, options callOptions, invoke func(context.Context, []grpc.CallOption) error) result {
	call := ctx
	if record.Number() > 1 {
		ctx = retryContext(ctx, record)
	}
	if !m.ruled {
		return result{err: invoke(ctx, options.all)}
	}
	if m.rule.attemptTimeout > 0 {
		timed, cancel := context.WithTimeout(ctx, m.rule.attemptTimeout)
		defer cancel()
		ctx = timed
	}
	trailer, err := m.withTrailer(ctx, record, options, invoke)
	timedOut := errors.Is(ctx.Err(), context.DeadlineExceeded) && call.Err() == nil && status.Code(err) == codes.DeadlineExceeded
	return result{err, trailer, timedOut}
}

// withTrailer makes an attempt and returns the trailer of a failure. Pickers of this module
// record it; to ask gRPC for it takes allocations in each call, and is for other pickers.
func (m *method) withTrailer(ctx context.Context, record *attempt.Record, options callOptions, invoke func(context.Context, []grpc.CallOption) error) (metadata.MD, error) {
	known := m.recorded.Load()
	var asked *metadata.MD
	all := options.all
	if !known {
		asked = &metadata.MD{}
		all = append(slices.Clip(all), grpc.Trailer(asked))
	}
	err := invoke(ctx, all)
	if recorded := record.End() != 0; recorded != known && (recorded || err != nil) {
		m.recorded.Store(recorded)
	}
	if asked != nil {
		return *asked, err
	}
	return record.Trailer(), err
}

// retryContext is the context of a later attempt. The server receives the number of earlier
// ones (gRFC A6).
func retryContext(ctx context.Context, record *attempt.Record) context.Context {
	ctx = attempt.NewContext(ctx, record)
	return metadata.AppendToOutgoingContext(ctx, wire.PreviousAttemptsKey, strconv.Itoa(record.Number()-1))
}

// events are free ones: observers must not keep them.
var events = sync.Pool{New: func() any { return &Attempt{} }}

// again notifies the observer and reports whether to make another attempt, after the wait. If
// not, err is that of the call.
func (m *method) again(ctx context.Context, record *attempt.Record, r result) (again bool, err error) {
	verdict, wait := m.judge(ctx, record, r)
	if verdict != Answered {
		interceptors.Note(ctx, m.meta, func(h *hop.Hop) { h.Follow(string(verdict), wait) })
	}
	if m.ruled || record.Number() > 1 || verdict != Answered && verdict != Final {
		e := events.Get().(*Attempt)
		*e = Attempt{record.Number(), record.Picked(), status.Code(r.err), verdict, wait}
		m.publisher.Publish(ctx, m.meta, e)
		*e = Attempt{}
		events.Put(e)
	}
	switch {
	case verdict == Again && wait > 0:
		err = interceptors.Sleep(ctx, wait, r.err)
		return err == nil, err
	case verdict == Late && ctx.Err() != nil:
		return false, interceptors.Ended(ctx, r.err)
	default:
		return verdict == Again, r.err
	}
}

// maxAdvisedWait bounds the wait that a server may set.
const maxAdvisedWait = 30 * time.Second

// judge decides what follows an attempt: a retry on another instance at once, a retry by the
// rule after a wait, or none. It takes from the budget last, if nothing else prevents a retry.
func (m *method) judge(ctx context.Context, record *attempt.Record, r result) (Verdict, time.Duration) {
	if r.err == nil {
		return Answered, 0
	}
	s := status.Convert(r.err)
	byRule := m.ruled && (m.rule.codes[s.Code()] || r.timedOut || m.rule.onConnectFailure && unsent(record.End(), s.Code()))
	var advice advice
	if m.ruled {
		advice = adviceOf(s, r.trailer)
	}
	atOnce := m.ruled && limitedElsewhere(record, s, advice) || !byRule && m.movable(record, r.err)
	var wait time.Duration
	switch {
	case !byRule && !atOnce:
		return Final, 0
	case record.Number() >= m.rule.attempts:
		return Exhausted, 0
	case atOnce:
	case advice.never, s.Code() == codes.ResourceExhausted && !advice.given:
		return Refused, 0
	case advice.given:
		wait = min(advice.wait, maxAdvisedWait)
	default:
		wait = m.rule.wait(record.Number())
	}
	switch {
	case ctx.Err() != nil, wait > 0 && !outlives(ctx, wait):
		return Late, 0
	case !m.budget.spend():
		return Overspent, 0
	default:
		return Again, wait
	}
}

// outlives reports whether ctx lasts longer than wait.
func outlives(ctx context.Context, wait time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return !ok || time.Until(deadline) > wait
}

// limitedElsewhere reports whether one instance refused the attempt by its own rate limit, so
// that another may admit it, whatever codes the rule retries.
func limitedElsewhere(record *attempt.Record, s *status.Status, advice advice) bool {
	return s.Code() == codes.ResourceExhausted && record.HasUntried() && advice.given && !advice.never && !limitOfService(s)
}

// limitOfService reports whether all instances share a limit. One without a scope is that of
// its instance.
func limitOfService(s *status.Status) bool {
	for _, detail := range s.Details() {
		if quota, ok := detail.(*errdetails.QuotaFailure); ok && len(quota.GetViolations()) > 0 {
			return quota.GetViolations()[0].GetQuotaDimensions()[wire.QuotaScope] == wire.ScopeService
		}
	}
	return false
}

// advice is what the server says about a retry.
type advice struct {
	given bool
	never bool
	wait  time.Duration
}

// adviceOf takes the longer wait if a server sends both pushback and RetryInfo.
func adviceOf(s *status.Status, trailer metadata.MD) advice {
	wait, given := wire.Pushback(trailer)
	a := advice{given: given, never: wait < 0, wait: max(wait, 0)}
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			a.given = true
			a.wait = max(a.wait, info.GetRetryDelay().AsDuration())
		}
	}
	return a
}

// movable reports whether another instance may answer the failed attempt: no handler has run,
// as its end proves, or the method may run twice and the instance does not have it. A call that
// is back at an instance it has tried stays there: there is no other.
func (m *method) movable(record *attempt.Record, err error) bool {
	if picked := record.Picked(); picked == nil || !record.HasUntried() || record.Tried(picked.Address) {
		return false
	}
	return unhandled(record.End(), err) || status.Code(err) == codes.Unimplemented && m.meta.Retryable()
}

// unhandled reports whether the end of an attempt proves that no handler has run: the server
// marks it, gRPC reports that the server has not processed the stream, or an HTTP server without
// gRPC has refused the request. A status alone is no proof: a handler may pass on one that it
// has received.
func unhandled(end attempt.End, err error) bool {
	if end&attempt.Over == 0 || end&(attempt.Unhandled|attempt.Answer) != 0 {
		return end&attempt.Unhandled != 0
	}
	s := status.Convert(err)
	if end&attempt.Received == 0 {
		return s.Code() == codes.Unavailable && (end&attempt.Sent == 0 || slices.Contains(unprocessed, s.Message()))
	}
	return slices.ContainsFunc(notGRPC, func(status string) bool {
		return strings.HasPrefix(s.Message(), unexpectedHTTP+status)
	})
}

// unsent reports whether an attempt has failed without a connection.
func unsent(end attempt.End, code codes.Code) bool {
	return code == codes.Unavailable && end&(attempt.Sent|attempt.Received) == 0
}

// unprocessed are gRPC's messages for streams that a server has not processed: refused, or
// beyond its GOAWAY. They are proofs only if nothing was received.
var unprocessed = []string{
	"stream terminated by RST_STREAM with error code: REFUSED_STREAM",
	"the stream is rejected because server is draining the connection",
	"the connection is draining",
}

// unexpectedHTTP starts gRPC's message for an answer without gRPC's content type.
const unexpectedHTTP = "unexpected HTTP status code received from server: "

// notGRPC are the statuses of HTTP servers without a handler for the request: not found, method
// not allowed, unsupported media type, misdirected request, not implemented. Other statuses may
// come from a proxy after the handler ran.
var notGRPC = []string{"404 ", "405 ", "415 ", "421 ", "501 "}

// callOptions are the options of a call, which must look like one attempt to its caller.
type callOptions struct {
	all    []grpc.CallOption // for each attempt
	finish rpc.Finish        // for the last one
}

func newCallOptions(all []grpc.CallOption) (o callOptions) {
	o.all, o.finish = rpc.SplitFinish(all)
	return o
}

// reset clears what a failed attempt has written. gRPC does not overwrite headers and peer if an
// attempt never reaches a server.
func (o callOptions) reset(reply any) {
	if message, ok := reply.(proto.Message); ok {
		proto.Reset(message)
	}
	for _, option := range o.all {
		switch option := option.(type) {
		case grpc.HeaderCallOption:
			*option.HeaderAddr = nil
		case grpc.TrailerCallOption:
			*option.TrailerAddr = nil
		case grpc.PeerCallOption:
			*option.PeerAddr = peer.Peer{}
		}
	}
}

const (
	// A budget starts with enough retries for single calls, and saves up enough for the calls in
	// flight to an instance that dies.
	initialRetries = 10
	maxRetries     = 100
	// A call earns nine tenths of what the rule allows. The rest pays for initialRetries, so that
	// after 500 calls (at 0.2) the rule holds for all of them.
	earned = 0.9

	token = 1e6
)

// budget is a token bucket that calls fill and retries drain, as in gRFC A6. It is safe for
// concurrent use.
type budget struct {
	perCall int64
	tokens  atomic.Int64
}

// newBudget allows ratio retries for each call, over time; 0 allows none.
func newBudget(ratio float64) *budget {
	b := &budget{perCall: int64(ratio * earned * token)}
	if ratio > 0 {
		b.tokens.Store(initialRetries * token)
	}
	return b
}

// earn adds the tokens of one call.
func (b *budget) earn() {
	for {
		now := b.tokens.Load()
		next := min(now+b.perCall, maxRetries*token)
		if next == now || b.tokens.CompareAndSwap(now, next) {
			return
		}
	}
}

// spend takes one retry, if there is one, and reports whether it did.
func (b *budget) spend() bool {
	for {
		now := b.tokens.Load()
		if now < token {
			return false
		}
		if b.tokens.CompareAndSwap(now, now-token) {
			return true
		}
	}
}
