package retry

import (
	"context"
	"errors"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
)

// attemptsKey tells the server how many attempts came before (gRFC A6).
const attemptsKey = "grpc-previous-rpc-attempts"

// longestAdvice is how long a call waits because a server says so.
const longestAdvice = 30 * time.Second

// method retries the calls of one method.
type method struct {
	meta     *interceptors.CallMeta
	rule     rule
	budget   *budget
	observer interceptors.Observer
}

// outcome is how an attempt ended.
type outcome struct {
	err      error
	trailer  metadata.MD
	timedOut bool // by the timeout of the attempt, not of the call
	event    Attempt
}

// call makes attempts until the verdict on one is not to make another, and gives
// the error of the last.
func (m *method) call(ctx context.Context, name string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	m.budget.earn()
	options := newOptions(opts)
	ctx, record := attempt.Of(ctx, attempt.Unary)
	for {
		result := m.attempt(ctx, record, func(ctx context.Context, trailer grpc.CallOption) error {
			return invoker(ctx, name, req, reply, cc, options.with(trailer)...)
		})
		verdict, wait := m.elsewhere(ctx, record, result)
		if verdict != Again {
			verdict, wait = m.judge(ctx, record.Number(), result)
		}
		if verdict == Final {
			verdict = m.move(ctx, record, result.err)
		}
		result.event = Attempt{record.Number(), record.Picked(), status.Code(result.err), verdict, wait}
		interceptors.Publish(ctx, m.meta, m.observer, &result.event)
		if verdict == Again {
			if result.err = interceptors.Sleep(ctx, wait, result.err); result.err == nil {
				record = record.Next()
				options.reset(reply)
				continue
			}
		}
		if verdict == Late && ctx.Err() != nil {
			result.err = interceptors.Ended(ctx, result.err)
		}
		options.finish(result.err)
		return result.err
	}
}

func (m *method) attempt(ctx context.Context, record *attempt.Record, invoke func(context.Context, grpc.CallOption) error) *outcome {
	result := &outcome{} // on the heap anyway: gRPC keeps the address of the trailer
	call := ctx
	if attempt.FromContext(ctx) != record {
		ctx = attempt.NewContext(ctx, record)
	}
	if before := record.Number() - 1; before > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, attemptsKey, strconv.Itoa(before))
	}
	if m.rule.attemptTimeout > 0 {
		timed, cancel := context.WithTimeout(ctx, m.rule.attemptTimeout)
		defer cancel()
		ctx = timed
	}
	result.err = invoke(ctx, grpc.Trailer(&result.trailer))
	result.timedOut = errors.Is(ctx.Err(), context.DeadlineExceeded) && call.Err() == nil &&
		status.Code(result.err) == codes.DeadlineExceeded
	return result
}

// judge says what follows an attempt. It spends from the budget last, when all
// else speaks for another.
func (m *method) judge(ctx context.Context, number int, result *outcome) (Verdict, time.Duration) {
	if result.err == nil {
		return Answered, 0
	}
	s := status.Convert(result.err)
	if !m.rule.codes[s.Code()] && !result.timedOut {
		return Final, 0
	}
	if number >= m.rule.attempts {
		return Exhausted, 0
	}
	advice := adviceOf(s, result.trailer)
	if advice.never || s.Code() == codes.ResourceExhausted && !advice.given {
		return Refused, 0
	}
	wait := m.rule.wait(number)
	if advice.given {
		wait = min(advice.wait, longestAdvice)
	}
	if ctx.Err() != nil || !outlives(ctx, wait) {
		return Late, 0
	}
	if !m.budget.spend() {
		return Overspent, 0
	}
	return Again, wait
}

// outlives reports whether ctx lasts longer than wait.
func outlives(ctx context.Context, wait time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return !ok || time.Until(deadline) > wait
}
