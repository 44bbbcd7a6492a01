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
	observer Observer
	budgets  budgets
}

// Attempt is what an observer is told of one.
type Attempt struct {
	Number   int               // 1 is the first
	Instance *attempt.Instance // nil when no picker has told
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

// Observer is told of each attempt that ended, in the goroutine of the call. It
// must be fast: the call waits for it. A panic is logged, and the call goes on. Methods that are not retried have no attempts to tell of.
type Observer func(*interceptors.CallMeta, Attempt)

// Option changes what [New] makes.
type Option func(*Retry)

// WithObserver sets who is told of attempts, such as a counter.
func WithObserver(observer Observer) Option {
	return func(r *Retry) { r.observer = observer }
}

// New makes the concern: how to retry is in the policy. A nil observer is an error.
func New(opts ...Option) (*Retry, error) {
	r := &Retry{observer: func(*interceptors.CallMeta, Attempt) {}}
	for _, opt := range opts {
		opt(r)
	}
	if r.observer == nil {
		return nil, errors.New("retry: WithObserver(nil): leave the option out for no observer")
	}
	return r, nil
}

// Place is [interceptors.Retry].
func (r *Retry) Place() interceptors.Place { return interceptors.Retry }

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
	m := &method{meta: meta, rule: rule, budget: newBudget(rule.budget), observe: r.observer}
	r.budgets.set(meta.FullMethod, m.budget)
	return m.call
}

// UnaryClientInterceptor is for use without a chain, one for each channel. It
// panics without policies.
func (r *Retry) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	chain, err := interceptors.Chain(interceptors.Client, policies, r)
	if err != nil {
		panic(err)
	}
	return chain.UnaryClient()
}
