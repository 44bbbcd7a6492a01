package cache_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// lenient keeps answers for a minute, and for five more in an outage.
func lenient() *policyv1.CacheRule {
	rule := anybody()
	rule.StaleIfError = proto.String("5 minutes")
	return rule
}

// strict is lenient, but for must_revalidate.
func strict() *policyv1.CacheRule {
	rule := lenient()
	rule.MustRevalidate = proto.Bool(true)
	return rule
}

// C14, in part: Stale is never served past ttl + window, nor after must-revalidate.
func TestAnOldAnswerStandsInDuringAnOutage(t *testing.T) {
	for code, standsIn := range map[codes.Code]bool{
		codes.Unavailable: true, codes.Internal: true, codes.Unknown: true, codes.DeadlineExceeded: true,
		codes.NotFound: false, codes.PermissionDenied: false, codes.Canceled: false, codes.ResourceExhausted: false,
	} {
		t.Run(code.String(), func(t *testing.T) {
			answer := func(_ context.Context, call int64) error {
				if call == 1 {
					return nil
				}
				return status.Error(code, "not today")
			}
			onEachSide(t, lenient, answer, func(t *testing.T, ask asker, calls *atomic.Int64, c *cache.Cache) {
				for minute := range 8 {
					_, err := ask(t.Context())
					if good := minute == 0 || standsIn && minute < 6; good != (err == nil) {
						t.Errorf("after %d minutes: %v", minute, err)
					}
					time.Sleep(time.Minute)
				}
				want(t, "calls", calls.Load(), 8) // each tries, and so finds the end of the outage
				if standsIn {
					want(t, "stale", c.Stats().Stale, 5)
				}
			})
		})
	}
}

func TestNothingStandsInWhereItMustNot(t *testing.T) {
	answer := func(_ context.Context, call int64) error {
		if call == 1 {
			return nil
		}
		return status.Error(codes.Unavailable, "not today")
	}
	for _, rule := range []func() *policyv1.CacheRule{strict, anybody} {
		onEachSide(t, rule, answer, func(t *testing.T, ask asker, _ *atomic.Int64, c *cache.Cache) {
			if _, err := ask(t.Context()); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Minute)
			if _, err := ask(t.Context()); status.Code(err) != codes.Unavailable {
				t.Errorf("past its ttl: %v", err)
			}
			want(t, "stale", c.Stats().Stale, 0)
		})
	}
}
