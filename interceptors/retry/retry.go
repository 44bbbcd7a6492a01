package retry

import (
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
)

// Retry is the concern. It is safe for concurrent use.
type Retry struct {
	observer interceptors.Observer
	budgets  budgets
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
	Again     Verdict = "again"     // it is tried again
	Final     Verdict = "final"     // the rule does not retry the code
	Exhausted Verdict = "exhausted" // max_attempts is reached
	Refused   Verdict = "refused"   // the server says not to try again, or not when
	Late      Verdict = "late"      // the call would end before the next attempt
	Overspent Verdict = "overspent" // the budget has no retry left
)

// Stage is [interceptors.Retry].
func (a *Attempt) Stage() interceptors.Stage { return interceptors.Retry }

// Result is the verdict.
func (a *Attempt) Result() string { return string(a.Verdict) }

// StatusCode is the code that the attempt ended with.
func (a *Attempt) StatusCode() codes.Code { return a.Code }

// Option changes what [New] makes.
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

// UnaryClient retries the calls of a method with a rule of more than one attempt
// that may run twice. Those of others are tried elsewhere where no handler ran, unless the
// rule says one attempt. The budget begins anew with each change of the policy.
func (r *Retry) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	rule := newRule(meta.Policy.GetRetry())
	if rule.attempts < 2 || !meta.Retryable() {
		r.budgets.set(meta.FullMethod, nil)
		if m := r.unruled(meta, rule); m != nil {
			return m.once
		}
		return nil
	}
	m := &method{meta: meta, rule: rule, budget: newBudget(rule.budget), observer: r.observer}
	r.budgets.set(meta.FullMethod, m.budget)
	return m.call
}

// UnaryClientInterceptor is for use without a chain, one for each channel. It
// panics without policies.
func (r *Retry) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, r).UnaryClient()
}
