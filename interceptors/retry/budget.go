package retry

import "sync/atomic"

const (
	// A budget begins with a few retries, so that a lone call can be retried,
	// and saves up enough for the calls in flight to an instance that dies.
	firstRetries = 10
	mostRetries  = 100
	// A call earns nine tenths of what the rule allows. The rest pays for the
	// first retries, so that after 500 calls (at 0.2) the rule holds from the
	// first call on.
	earned = 0.9

	token = 1e6
)

// budget is a token bucket that calls fill and retries empty, as in gRFC A6. It
// is safe for concurrent use.
type budget struct {
	perCall int64
	tokens  atomic.Int64
}

// newBudget allows ratio retries a call, over time; 0 allows none.
func newBudget(ratio float64) *budget {
	b := &budget{perCall: int64(ratio * earned * token)}
	if ratio > 0 {
		b.tokens.Store(firstRetries * token)
	}
	return b
}

// earn adds what one call brings.
func (b *budget) earn() {
	for {
		now := b.tokens.Load()
		next := min(now+b.perCall, mostRetries*token)
		if next == now || b.tokens.CompareAndSwap(now, next) {
			return
		}
	}
}

// spend takes one retry, if there is one.
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
