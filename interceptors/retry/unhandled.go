package retry

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
)

// unhandledAttempts is how many attempts a call has whose method has no retry rule, when
// no handler ran for each but the last.
const unhandledAttempts = 3

// unruled has the calls of a method without a rule of its own tried elsewhere where no
// handler ran. nil where the policy says that there is one attempt.
func (r *Retry) unruled(meta *interceptors.CallMeta, rule rule) *method {
	if rule.attempts == 1 {
		return nil
	}
	rule.attempts = max(rule.attempts, unhandledAttempts)
	return &method{meta: meta, rule: rule, budget: newBudget(rule.budget), observer: r.observer}
}

// once makes the only attempt of most calls, which costs no more than a look at its error.
func (m *method) once(ctx context.Context, name string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	m.budget.earn()
	options := newOptions(opts)
	ctx, record := attempt.Of(ctx, attempt.Unary)
	err := invoker(ctx, name, req, reply, cc, options.all...)
	for m.moves(ctx, record, err) {
		record = record.Next()
		options.reset(reply)
		err = invoker(following(ctx, record), name, req, reply, cc, options.all...)
	}
	options.finish(err)
	return err
}

// moves judges an attempt by [method.move], notifies the observer, and reports whether to
// make another at once.
func (m *method) moves(ctx context.Context, record *attempt.Record, err error) bool {
	verdict := Answered
	if err != nil {
		verdict = m.move(ctx, record, err)
	}
	if record.Number() > 1 || verdict != Answered && verdict != Final {
		interceptors.Publish(ctx, m.meta, m.observer, &Attempt{record.Number(), record.Picked(), status.Code(err), verdict, 0})
	}
	return verdict == Again
}

// move is [Again], at once, for a failed attempt that another instance may answer though
// no rule retries its code.
func (m *method) move(ctx context.Context, record *attempt.Record, err error) Verdict {
	switch {
	case !m.movable(record, err):
		return Final
	case record.Number() >= m.rule.attempts:
		return Exhausted
	case ctx.Err() != nil:
		return Late
	case !m.budget.spend():
		return Overspent
	default:
		return Again
	}
}

// movable reports whether no handler ran, as the end of the attempt proves, or the method
// may run twice and the instance does not have it. An instance that was tried before is
// not left for another: there is none.
func (m *method) movable(record *attempt.Record, err error) bool {
	if picked := record.Picked(); picked == nil || !record.Others() || record.Tried(picked.Address) {
		return false
	}
	return unhandled(record.End(), err) || status.Code(err) == codes.Unimplemented && m.meta.Retryable()
}

// unhandled reports whether an attempt that ended so with err proves that no handler ran:
// the server says so, gRPC says that the server has not processed the stream, or an HTTP
// server that does not speak gRPC there has refused the request. A status alone proves
// nothing, since a handler may return one that it has received itself.
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

// unprocessed are gRPC's words for streams that a server has not processed: refused, or
// beyond its GOAWAY. They are these only where nothing was received.
var unprocessed = []string{
	"stream terminated by RST_STREAM with error code: REFUSED_STREAM",
	"the stream is rejected because server is draining the connection",
	"the connection is draining",
}

// unexpectedHTTP begins gRPC's words for an answer that has no gRPC content type.
const unexpectedHTTP = "unexpected HTTP status code received from server: "

// notGRPC are the statuses of HTTP servers without a handler for the request: not found,
// method not allowed, unsupported media type, misdirected request, not implemented. Others
// may come from a proxy before a server whose handler ran.
var notGRPC = []string{"404 ", "405 ", "415 ", "421 ", "501 "}

// following is the context of a later attempt.
func following(ctx context.Context, record *attempt.Record) context.Context {
	ctx = attempt.NewContext(ctx, record)
	return metadata.AppendToOutgoingContext(ctx, attemptsKey, strconv.Itoa(record.Number()-1))
}
