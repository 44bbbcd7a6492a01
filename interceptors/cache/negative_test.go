package cache_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// forgetful keeps NOT_FOUND for ten seconds, and answers for a minute.
func forgetful() *policyv1.CacheRule {
	rule := anybody()
	rule.Negative = []*policyv1.NegativeRule{{Code: "NOT_FOUND", Ttl: "10s"}}
	return rule
}

// C7: Nothing is stored before the final status is OK, or an allowed negative code: that
// is kept for its own time, with its details.
//
// Case C7
func TestAllowedFailuresAreKept(t *testing.T) {
	missing, err := status.New(codes.NotFound, "no fudge").WithDetails(&errdetails.ResourceInfo{ResourceName: "fudge"})
	if err != nil {
		t.Fatal(err)
	}
	answer := func(_ context.Context, call int64) error {
		if call < 3 {
			return missing.Err()
		}
		return nil
	}
	onEachSide(t, forgetful, answer, func(t *testing.T, ask asker, calls *atomic.Int64, c *cache.Cache) {
		for second := range 20 {
			_, err := ask(t.Context())
			s := status.Convert(err)
			if s.Code() != codes.NotFound || s.Message() != "no fudge" || len(s.Details()) != 1 {
				t.Fatalf("after %d s: %v with details %v", second, err, s.Details())
			}
			want(t, "calls", calls.Load(), int64(1+second/10))
			time.Sleep(time.Second)
		}
		if name, err := ask(t.Context()); err != nil || name != "answer 3" {
			t.Errorf("when it is there: %q, %v", name, err)
		}
		time.Sleep(30 * time.Second) // an answer has another ttl than a failure
		if name, err := ask(t.Context()); err != nil || name != "answer 3" {
			t.Errorf("half a minute later: %q, %v", name, err)
		}
		want(t, "hits", c.Stats().Hits, 19)
	})
}

// Case C7
func TestOtherFailuresAreNotKept(t *testing.T) {
	answer := func(context.Context, int64) error { return status.Error(codes.Unavailable, "closed") }
	onEachSide(t, forgetful, answer, func(t *testing.T, ask asker, calls *atomic.Int64, c *cache.Cache) {
		for range 3 {
			if _, err := ask(t.Context()); status.Code(err) != codes.Unavailable {
				t.Error(err)
			}
		}
		want(t, "calls", calls.Load(), 3)
		want(t, "kept", c.Stats().Entries, 0)
	})
}
