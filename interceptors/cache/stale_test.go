package cache_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
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
//
// Case C14
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

// Case C14
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

// A handler that has sent another etag before it failed cannot take it back, and so no old
// answer stands in. On a client it does, with the header that it came with.
//
// Case C14
func TestNothingStandsInUnderAnothersEtag(t *testing.T) {
	for told, same := range map[string]bool{`"v2"`: false, `"v1"`: true, "": true} {
		answer := func(_ context.Context, e *exchange) error {
			if e.number == 1 {
				e.header.Set("etag", `"v1"`)
				return nil
			}
			if told != "" {
				e.header.Set("etag", told)
			}
			return status.Error(codes.Unavailable, "the oven is cold")
		}
		both(t, lenient, answer, func(t *testing.T, call callFunc, _ *backend, c *cache.Cache) {
			call(t.Context(), "fudge").is(t, "first", "answer 1", "etag", `["v1"]`)
			time.Sleep(time.Minute)
			got := call(t.Context(), "fudge")
			onServer := strings.Contains(t.Name(), "/server")
			switch {
			case onServer && !same:
				want(t, "told "+told, status.Code(got.err), codes.Unavailable)
				want(t, "stale", c.Stats().Stale, 0)
			default:
				got.is(t, "told "+told, "answer 1", "etag", `["v1"]`)
			}
		})
	}
}

// A client whose cache keeps what a server with a cache sends in an outage never has the old
// answer under the etag of the new one, which a server would confirm as not modified.
//
// Case C14
func TestNoAnswerIsKeptUnderAnothersEtag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var version atomic.Value
		var down atomic.Bool
		version.Store(`"v1"`)
		shop := &shop{answer: func(ctx context.Context, _ *catalogv1.GetSweetRequest) error {
			cache.Unchanged(ctx, version.Load().(string))
			if down.Load() {
				return status.Error(codes.Unavailable, "the oven is cold")
			}
			return nil
		}}
		far, near := newCache(t), newCache(t)
		sweets := dial(t, shop,
			[]grpc.ServerOption{grpc.UnaryInterceptor(far.UnaryServerInterceptor(policies(t, onServer(lenient()))))},
			[]grpc.DialOption{grpc.WithUnaryInterceptor(near.UnaryClientInterceptor(policies(t, anybody())))})
		force := metadata.AppendToOutgoingContext(t.Context(), "cache-control", "no-cache")
		want(t, "at first", ask(t, force, sweets, "fudge"), "answer 1")
		time.Sleep(time.Minute)
		version.Store(`"v2"`)
		down.Store(true)
		if err := near.Invalidate(t.Context(), cache.Everything()); err != nil { // it is as one that has nothing yet
			t.Fatal(err)
		}
		_, err := sweets.GetSweet(force, &catalogv1.GetSweetRequest{Id: "fudge"})
		want(t, "in the outage", status.Code(err), codes.Unavailable)
		down.Store(false)
		want(t, "after it", ask(t, force, sweets, "fudge"), "answer 3")
	})
}
