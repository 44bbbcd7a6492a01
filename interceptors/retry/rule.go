package retry

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// rule is a RetryRule with its defaults.
type rule struct {
	attempts       int
	backoff        time.Duration
	maxWait        time.Duration
	multiplier     float64
	codes          map[codes.Code]bool
	attemptTimeout time.Duration // 0 is none
	budget         float64
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
