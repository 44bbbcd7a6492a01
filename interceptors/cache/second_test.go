package cache_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// Who forces a call is not given what the store has, and leaves there what it is answered.
func TestAForcedFetchTakesNothingFromTheStore(t *testing.T) {
	replicas(t, anybody, nil, func(t *testing.T, one, two callFunc, b *backend, s *shelf, caches [2]*cache.Cache) {
		one(t.Context(), "fudge").is(t, "one", "answer 1")
		synctest.Wait()
		two(t.Context(), "fudge", "who", "ops", "cache-control", "no-cache").is(t, "forced", "answer 2")
		synctest.Wait()
		s.lose()
		one(t.Context(), "fudge").is(t, "from the store", "answer 2")
		want(t, "calls", b.count(), 2)
		want(t, "hits of the store", caches[1].Stats().StoreHits, 0)
	})
}

// A refresh does not find in the store the very answer that it is for.
func TestARefreshDoesNotFindTheOldAnswer(t *testing.T) {
	eager := func() *policyv1.CacheRule {
		rule := anybody()
		rule.EarlyRefresh = proto.Float64(100)
		return rule
	}
	slow := func(ctx context.Context, e *exchange) error { return after(time.Second, nil)(ctx, e.number) }
	replicas(t, eager, slow, func(t *testing.T, one, _ callFunc, b *backend, _ *shelf, caches [2]*cache.Cache) {
		one(t.Context(), "fudge")
		time.Sleep(30 * time.Second)
		for range 50 { // three of four draw a refresh
			one(t.Context(), "fudge").is(t, "meanwhile", "answer 1")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		want(t, "calls", b.count(), 2)
		want(t, "refreshed", caches[0].Stats().Refreshed, 1)
	})
}

// Who waits with others for an answer of the store is not given one that is too old for it.
func TestWaitersAreNotGivenWhatIsTooOldForThem(t *testing.T) {
	replicas(t, anybody, nil, func(t *testing.T, one, two callFunc, _ *backend, s *shelf, _ [2]*cache.Cache) {
		one(t.Context(), "fudge")
		synctest.Wait()
		time.Sleep(50 * time.Second)
		s.set(false, time.Second/2)
		first := make(chan said)
		go func() { first <- two(t.Context(), "fudge") }()
		synctest.Wait()
		two(t.Context(), "fudge", "who", "ops", "cache-control", "max-age=5").is(t, "who wants a new one", "answer 2")
		(<-first).is(t, "who takes any", "answer 1")
	})
}

// An answer that still holds is kept for another time in the store, too.
func TestAnUnchangedAnswerIsSharedAgain(t *testing.T) {
	answer := func(_ context.Context, e *exchange) error {
		e.unchanged(`"v7"`)
		return nil
	}
	replicas(t, anybody, answer, func(t *testing.T, one, two callFunc, b *backend, _ *shelf, caches [2]*cache.Cache) {
		one(t.Context(), "fudge")
		time.Sleep(time.Minute)
		got := one(t.Context(), "fudge")
		synctest.Wait()
		two(t.Context(), "fudge").is(t, "two", got.name, "etag", `["v7"]`)
		want(t, "calls", b.count(), 2)
		want(t, "hits of the store", caches[1].Stats().StoreHits, 1)
	})
}

// A failure has no message that could still hold, whatever etag it came with.
func TestAFailureIsNotAskedAbout(t *testing.T) {
	answer := func(_ context.Context, e *exchange) error {
		if e.unchanged(`"catalog 7"`) {
			return nil
		}
		return status.Error(codes.NotFound, "no such sweet")
	}
	replicas(t, forgetful, answer, func(t *testing.T, one, two callFunc, b *backend, _ *shelf, _ [2]*cache.Cache) {
		one(t.Context(), "none")
		synctest.Wait()
		for _, what := range []string{"from the store", "asked again"} {
			want(t, what, status.Code(two(t.Context(), "none").err), codes.NotFound)
			want(t, what+", and kept", status.Code(two(t.Context(), "none").err), codes.NotFound)
			time.Sleep(10 * time.Second)
		}
		want(t, "calls", b.count(), 2)
	})
}

// A store that panics in the background does not end the process, and it is logged.
func TestAPanicOfTheStoreIsLogged(t *testing.T) {
	var log syncBuffer
	s := newShelf()
	s.saving = func(context.Context) error { panic("out of paper") }
	both(t, anybody, nil, func(t *testing.T, call callFunc, _ *backend, _ *cache.Cache) {
		call(t.Context(), "fudge")
		synctest.Wait()
		if text := log.take(); !strings.Contains(text, "out of paper") || !strings.Contains(text, "GetSweet") {
			t.Errorf("logged %q", text)
		}
		call(t.Context(), "fudge").is(t, "and still", "answer 1")
	}, cache.WithStore(s), cache.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
}

// C14: A store that takes long to save takes no place of a refresh. It is given up after five
// seconds, and what finds no place is not saved: both are errors of the store.
//
// Case C14
func TestASlowStoreHindersNoRefresh(t *testing.T) {
	s := newShelf()
	s.saving = func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	both(t, refreshed, nil, func(t *testing.T, call callFunc, _ *backend, c *cache.Cache) {
		call(t.Context(), "fudge")
		time.Sleep(time.Minute)
		want(t, "given up", c.Stats().StoreErrors, 1)
		for i := range 64 {
			call(t.Context(), fmt.Sprint(i))
		}
		call(t.Context(), "fudge").is(t, "past its ttl", "answer 1")
		synctest.Wait()
		want(t, "refreshed", c.Stats().Refreshed, 1)
		want(t, "no place", c.Stats().StoreErrors, 2)
	}, cache.WithStore(s))
}
