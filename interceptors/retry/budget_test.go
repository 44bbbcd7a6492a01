package retry_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors/retry"
)

// F6: everything failing: attempts <= 1.2 x calls.
//
// Case F6: Retries stay within 1.2 attempts a call.
func TestBudgetBoundsAttemptsWhenEverythingFails(t *testing.T) {
	for _, calls := range []int{500, 5000} {
		synctest.Test(t, func(t *testing.T) {
			b := newBackend(t, attempts(10), failed(codes.Unavailable))
			for range calls {
				_ = b.call(t.Context())
			}
			if made := len(b.starts); made > calls*12/10 || made < calls*11/10 {
				t.Errorf("%d attempts for %d calls, want up to 1.2 for each", made, calls)
			}
		})
	}
}

// F6, after a good time has filled the bucket.
//
// Case F6
func TestBudgetBoundsAnOutageAfterAGoodTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, attempts(3), reply{})
		for range 10_000 {
			_ = b.call(t.Context())
		}
		b.replies, b.starts = []reply{failed(codes.Unavailable)}, nil
		for range 5000 {
			_ = b.call(t.Context())
		}
		if len(b.starts) > 6000 {
			t.Errorf("%d attempts for 5000 calls, want 6000 at most", len(b.starts))
		}
	})
}

func TestLoneCallIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, attempts(5), failed(codes.Unavailable))
		if _ = b.call(t.Context()); len(b.starts) != 5 {
			t.Errorf("%d attempts, want all 5", len(b.starts))
		}
	})
}

// F2, as far as the budget goes: the calls in flight to an instance that dies
// are all retried.
func TestBudgetCoversTheCallsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, attempts(3), reply{})
		for range 1000 {
			_ = b.call(t.Context())
		}
		const inFlight = 50
		var wg sync.WaitGroup
		var mu sync.Mutex
		lost := 0
		for range inFlight {
			wg.Go(func() {
				first := true
				err := b.interceptor(t.Context(), "/shop.Catalog/GetSweet", nil, nil, nil,
					func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
						if first {
							first = false
							return status.Error(codes.Unavailable, "killed")
						}
						return nil
					})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					lost++
				}
			})
		}
		wg.Wait()
		if lost > 0 {
			t.Errorf("%d of %d calls failed", lost, inFlight)
		}
	})
}

func TestBudgetOfZeroAllowsNone(t *testing.T) {
	rule := attempts(3)
	rule.Budget = ptr(0.0)
	b := newBackend(t, rule, failed(codes.Unavailable))
	if _ = b.call(t.Context()); len(b.starts) != 1 || b.observed[0].Verdict != retry.Overspent {
		t.Errorf("%v, want one attempt that is overspent", b.verdicts())
	}
}
