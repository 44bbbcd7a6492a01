// Package retry retries unary calls after failures that may pass: by the retry rule of the
// policy, within a budget, and only methods that may run twice.
//
//	retrying, err := retry.New()
//	chain, err := interceptors.Chain(interceptors.Client, policies, retrying)
//
// The wait before an attempt is random between 0 and twice the backoff, which grows from 25ms by
// a factor of 2; no wait exceeds 1s ("full jitter", M. Brooker, Exponential Backoff and Jitter,
// 2015). A server may set the wait or forbid retries by grpc-retry-pushback-ms (gRFC A6) and
// google.rpc.RetryInfo, for up to 30s. RESOURCE_EXHAUSTED without either is final. With either
// it is retried at once on another instance if the picker has one, unless the limit is that of
// the whole service. No attempt starts if the deadline would end the wait.
//
// The budget is for all calls of a method on a channel together: over time 0.2 retries for each
// call, so that a service that is down gets 1.2 times the usual load, not max_attempts times.
//
// A call that no handler has run is retried on another instance at once, for all methods, unary
// and stream, with or without a rule: the server marks its answer to unknown methods, an HTTP
// server answers 404 or the like, a stream is refused or beyond a GOAWAY. UNIMPLEMENTED without
// such a proof is retried only if the method may run twice. These attempts use the budget, too.
// max_attempts: 1 disables them. Streams are not retried for other reasons, and not after the
// first message.
//
// The retries of grpc-go have no timeout of an attempt and do not read RetryInfo. Those of
// go-grpc-middleware have no budget, no pushback and no policy. With neither does a picker see
// which instances were tried.
package retry

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// Retry is the concern. It is safe for concurrent use.
type Retry struct {
	observer interceptors.Observer
	budgets  rpc.Table[string, *budget] // the current ones
}

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

// Option is an option of [New].
type Option func(*Retry)

// WithObserver sets what receives each [*Attempt], such as a counter.
func WithObserver(observer interceptors.Observer) Option {
	return func(r *Retry) { r.observer = observer }
}

// New makes the concern: how to retry is in the policy. A nil observer is an error.
func New(opts ...Option) (*Retry, error) {
	r := &Retry{observer: interceptors.ObserverFunc(nil)}
	for _, opt := range opts {
		opt(r)
	}
	if r.observer == nil {
		return nil, errors.New("retry: WithObserver(nil): leave the option out for no observer")
	}
	return r, nil
}

// Stage is [interceptors.Retry].
func (r *Retry) Stage() interceptors.Stage { return interceptors.Retry }

// UnaryClient retries the calls of a method. The rule applies if it has more than one attempt
// and the method may run twice. The budget starts anew with each change of the policy.
func (r *Retry) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	rule := newRule(meta.Policy.GetRetry())
	if rule.attempts < 2 || !meta.Retryable() {
		r.budgets.Delete(meta.FullMethod)
		if m := r.withoutRule(meta); m != nil {
			return m.unary
		}
		return nil
	}
	m := &method{meta: meta, rule: rule, ruled: true, budget: newBudget(rule.budget), observer: r.observer}
	r.budgets.Set(meta.FullMethod, m.budget)
	return m.unary
}

// StreamClient retries a stream that no handler has run, until its first message is received.
func (r *Retry) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	if m := r.withoutRule(meta); m != nil {
		return m.stream
	}
	return nil
}

// UnaryClientInterceptor is for use without a chain, one for each channel. It panics without
// policies.
func (r *Retry) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, r).UnaryClient()
}

// Stats is the budget of one method.
type Stats struct {
	Method string  // "/package.Service/Method"
	Budget float64 // retries left, up to 100
}

// Stats returns the budgets of methods with a rule that were called, by method. Of channels
// that share a Retry it is that of the latest.
func (r *Retry) Stats() []Stats {
	all := []Stats{}
	for method, b := range r.budgets.All() {
		all = append(all, Stats{method, float64(b.tokens.Load()) / token})
	}
	slices.SortFunc(all, func(a, b Stats) int { return cmp.Compare(a.Method, b.Method) })
	return all
}
