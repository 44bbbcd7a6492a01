package retry

import (
	"math"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// rule is a RetryRule as the calls need it, with the defaults filled in.
type rule struct {
	attempts       int
	backoff        time.Duration
	maxWait        time.Duration
	multiplier     float64
	codes          map[codes.Code]bool
	attemptTimeout time.Duration // 0 is none
	budget         float64
}

// newRule reads what policies have checked.
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

// wait is a random one after the attempt of that number: the backoff on average.
func (r rule) wait(number int) time.Duration {
	longest := 2 * float64(r.backoff) * math.Pow(r.multiplier, float64(number-1))
	longest = min(longest, float64(r.maxWait))
	return time.Duration(rand.Float64() * longest)
}
