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
// A route of the call's chain may add attempts and codes to the rule, for methods that may run
// twice, and unless the policy has max_attempts: 1.
//
// The retries of grpc-go have no timeout of an attempt and do not read RetryInfo. Those of
// go-grpc-middleware have no budget, no pushback and no policy. With neither does a picker see
// which instances were tried.
package retry

import (
	"cmp"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/rpc"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// Retry is the concern. It is safe for concurrent use.
type Retry struct {
	observer  interceptors.Observer
	publisher *interceptors.Publisher    // of observer
	budgets   rpc.Table[string, *budget] // the current ones
}

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
	r.publisher = interceptors.NewPublisher(r.observer)
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
	m := &method{meta: meta, rule: rule, ruled: true, budget: newBudget(rule.budget), publisher: r.publisher}
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
	Method string  `json:"method"` // "/package.Service/Method"
	Budget float64 `json:"budget"` // retries left, up to 100
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

// rule is a RetryRule with its defaults.
type rule struct {
	attempts       int
	backoff        time.Duration
	maxWait        time.Duration
	multiplier     float64
	codes          map[codes.Code]bool
	attemptTimeout time.Duration // 0 is none
	budget         float64

	onConnectFailure bool // whatever codes are
}

// with is r with what a route adds.
func (r rule) with(route *attempt.Retry) rule {
	r.attempts = cmp.Or(route.Attempts, r.attempts)
	r.codes = maps.Clone(r.codes)
	for _, code := range route.Codes {
		r.codes[code] = true
	}
	r.onConnectFailure = route.OnConnectFailure
	return r
}

// newRule reads a rule, which policies have checked.
func newRule(policy *policyv1.RetryRule) rule {
	r := rule{
		attempts:   int(policy.GetMaxAttempts()),
		backoff:    duration(policy.GetInitialBackoff(), 25*time.Millisecond),
		maxWait:    duration(policy.GetMaxBackoff(), time.Second),
		multiplier: 2,
		codes:      map[codes.Code]bool{},

		attemptTimeout: duration(policy.GetPerAttemptTimeout(), 0),
		budget:         0.2,
	}
	if policy.GetBackoffMultiplier() > 0 {
		r.multiplier = policy.GetBackoffMultiplier()
	}
	if policy != nil && policy.Budget != nil {
		r.budget = policy.GetBudget()
	}
	for _, name := range policy.GetCodes() {
		if code, err := interceptors.ParseCode(name); err == nil {
			r.codes[code] = true
		}
	}
	if len(policy.GetCodes()) == 0 {
		r.codes[codes.Unavailable] = true
	}
	return r
}

func duration(text string, preset time.Duration) time.Duration {
	if d, err := interceptors.ParseDuration(text); err == nil {
		return d
	}
	return preset
}

// wait is random after the attempt of that number: the backoff on average.
func (r rule) wait(number int) time.Duration {
	longest := 2 * float64(r.backoff) * math.Pow(r.multiplier, float64(number-1))
	longest = min(longest, float64(r.maxWait))
	return time.Duration(rand.Float64() * longest)
}
