package cache_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// refreshed keeps answers for a minute, and serves them for five more while it asks anew.
func refreshed() *policyv1.CacheRule {
	rule := anybody()
	rule.StaleWhileRevalidate = proto.String("5 minutes")
	return rule
}

// C14: past its ttl an answer is served at once while one call fetches a newer one, and
// never past the window.
//
// Case C14: Stale is never served past ttl and window, nor with must-revalidate; a refresh has
// a deadline and a budget.
func TestAnOldAnswerIsServedWhileANewOneIsFetched(t *testing.T) {
	slow := func(ctx context.Context, e *exchange) error {
		e.header.Set("made-by", strings.Repeat("i", int(e.number)))
		return after(time.Second, nil)(ctx, e.number)
	}
	both(t, refreshed, slow, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
		call(t.Context(), "fudge").is(t, "at first", "answer 1", "made-by", "[i]")
		time.Sleep(time.Minute)
		start := time.Now()
		for range 100 {
			call(t.Context(), "fudge").is(t, "past its ttl", "answer 1", "made-by", "[i]", "age", "[60]")
		}
		want(t, "waited", time.Since(start), 0)
		time.Sleep(time.Second)
		synctest.Wait()
		call(t.Context(), "fudge").is(t, "refreshed", "answer 2", "made-by", "[ii]", "age", "[0]")
		want(t, "calls", b.count(), 2)
		time.Sleep(6 * time.Minute)
		call(t.Context(), "fudge").is(t, "past the window", "answer 3")
		got := c.Stats().Counts
		want(t, "stats", got, cache.Counts{Hits: 1, Misses: 2, Stale: 100, Stored: 3, Refreshed: 1})
	})
}

// Must-revalidate forbids it, whether the policy says so or the answer.
//
// Case C14
func TestNoOldAnswerIsServedWhereItMustNot(t *testing.T) {
	must := func() *policyv1.CacheRule {
		rule := refreshed()
		rule.MustRevalidate = proto.Bool(true)
		return rule
	}
	for directive, rule := range map[string]func() *policyv1.CacheRule{
		"":                         must,
		"must-revalidate":          refreshed,
		"proxy-revalidate":         refreshed,
		"s-maxage=10":              refreshed, // the rule is public
		"stale-while-revalidate=0": refreshed,
		"max-age=60, no-cache":     refreshed,
	} {
		answer := func(_ context.Context, e *exchange) error {
			e.header.Set("cache-control", directive)
			return nil
		}
		both(t, rule, answer, func(t *testing.T, call callFunc, _ *backend, c *cache.Cache) {
			call(t.Context(), "fudge").is(t, "at first", "answer 1")
			time.Sleep(time.Minute)
			call(t.Context(), "fudge").is(t, "past its ttl, with "+directive, "answer 2")
			want(t, "stale", c.Stats().Stale, 0)
		})
	}
}

// C14: a background refresh has its own deadline, and no end of a caller's context ends it.
//
// Case C14
func TestARefreshHasItsOwnDeadline(t *testing.T) {
	deadlines := make(chan time.Duration, 10)
	answer := func(ctx context.Context, e *exchange) error {
		if e.number == 1 {
			return nil
		}
		deadline, _ := ctx.Deadline()
		deadlines <- time.Until(deadline)
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}
	both(t, refreshed, answer, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
		call(t.Context(), "fudge").is(t, "at first", "answer 1")
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		call(ctx, "fudge").is(t, "past its ttl", "answer 1")
		cancel()
		time.Sleep(3 * time.Second) // the contract has a timeout of two
		want(t, "refreshes", len(deadlines), 1)
		want(t, "deadline", <-deadlines, 2*time.Second)
		want(t, "failed", c.Stats().RefreshesFailed, 1)
	})
}

// C14: a background refresh has a budget: of one answer one at a time, of all answers 64
// at a time, and none for a second after one has failed.
//
// Case C14
func TestRefreshesHaveABudget(t *testing.T) {
	slow := func(ctx context.Context, e *exchange) error { return after(time.Second, nil)(ctx, e.number) }
	id := func(i int) string { return "sweet " + strings.Repeat("x", i) }
	both(t, refreshed, slow, func(t *testing.T, call callFunc, b *backend, _ *cache.Cache) {
		for i := range 100 {
			call(t.Context(), id(i))
		}
		time.Sleep(time.Minute)
		for i := range 100 {
			if got := call(t.Context(), id(i)); got.err != nil {
				t.Error(got.err)
			}
		}
		synctest.Wait()
		want(t, "calls", b.count(), 164)
		time.Sleep(2 * time.Second)
	})
	var down atomic.Bool
	failing := func(_ context.Context, e *exchange) error {
		if down.Load() {
			return status.Error(codes.Unavailable, "away")
		}
		return nil
	}
	both(t, refreshed, failing, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
		down.Store(false)
		call(t.Context(), "fudge")
		time.Sleep(time.Minute)
		down.Store(true)
		for range 1000 {
			call(t.Context(), "fudge").is(t, "during an outage", "answer 1")
			time.Sleep(10 * time.Millisecond)
		}
		want(t, "calls in ten seconds", b.count(), 1+10)
		want(t, "failed", c.Stats().RefreshesFailed, 10)
	})
}

// A refresh that finds an answer gone, or not to be stored, drops the old one. So does one
// that is not permitted, unless other callers may be. Other answers are refreshed at once.
//
// Case C14
func TestARefreshGivesUpWhatIsGone(t *testing.T) {
	const anyone, one = policyv1.CacheScope_CACHE_SCOPE_PUBLIC, policyv1.CacheScope_CACHE_SCOPE_PRIVATE
	for _, test := range []struct {
		scope policyv1.CacheScope
		code  codes.Code // OK is an answer that says no-store
		kept  bool
	}{
		{anyone, codes.NotFound, false}, {one, codes.NotFound, false}, {anyone, codes.OK, false},
		{anyone, codes.PermissionDenied, true}, {one, codes.PermissionDenied, false},
	} {
		rule := func() *policyv1.CacheRule {
			r := refreshed()
			r.Scope = test.scope
			return r
		}
		answer := func(_ context.Context, e *exchange) error {
			if e.number < 3 || e.id == "fudge" {
				return nil
			}
			e.header.Set("cache-control", "no-store")
			return status.Error(test.code, "gone")
		}
		both(t, rule, answer, func(t *testing.T, call callFunc, _ *backend, _ *cache.Cache) {
			ask := func(id string) said {
				defer synctest.Wait()
				return call(t.Context(), id, "customer", "ada")
			}
			ask("gone")
			ask("fudge")
			time.Sleep(time.Minute)
			ask("gone").is(t, "past its ttl", "answer 1")
			ask("fudge").is(t, "past its ttl", "answer 2")
			ask("fudge").is(t, "refreshed", "answer 4")
			want(t, fmt.Sprint(test.scope, " ", test.code, ": kept"), ask("gone").name == "answer 1", test.kept)
		})
	}
}

// A refresh is the cache's own: what the caller who has set it off wishes for itself, such as
// no call at all, does not go with it.
func TestARefreshCarriesNoWishesOfACaller(t *testing.T) {
	answer := func(_ context.Context, e *exchange) error {
		e.header.Set("asked", fmt.Sprint(e.asked.Get("cache-control"), e.asked.Get("if-none-match"), e.asked.Get("x-cache")))
		return nil
	}
	both(t, refreshed, answer, func(t *testing.T, call callFunc, _ *backend, _ *cache.Cache) {
		call(t.Context(), "fudge")
		time.Sleep(time.Minute)
		call(t.Context(), "fudge", "who", "ops", "cache-control", "only-if-cached", "if-none-match", `"v2"`, "x-cache", "?").is(t, "past its ttl", "answer 1")
		synctest.Wait()
		call(t.Context(), "fudge").is(t, "refreshed", "answer 2", "asked", "[[] [] []]")
	}, ops)
}

// The caller may change its request as soon as it has its answer.
func TestARefreshHasARequestOfItsOwn(t *testing.T) {
	slow := func(ctx context.Context, e *exchange) error { return after(time.Second, nil)(ctx, e.number) }
	both(t, refreshed, slow, func(t *testing.T, call callFunc, b *backend, _ *cache.Cache) {
		for range 2 {
			call(t.Context(), "fudge")
			time.Sleep(time.Minute)
		}
		want(t, "ids", b.asked(), "fudge fudge")
	})
}

// A panic of a handler in a refresh is logged; nobody else would see it, and it would end
// the process.
func TestAPanicInARefreshIsLogged(t *testing.T) {
	var log syncBuffer
	answer := func(_ context.Context, e *exchange) error {
		if e.number > 1 {
			panic("out of sugar")
		}
		return nil
	}
	both(t, refreshed, answer, func(t *testing.T, call callFunc, _ *backend, c *cache.Cache) {
		call(t.Context(), "fudge")
		time.Sleep(time.Minute)
		call(t.Context(), "fudge").is(t, "past its ttl", "answer 1")
		synctest.Wait()
		want(t, "failed", c.Stats().RefreshesFailed, 1)
		if text := log.take(); !strings.Contains(text, "out of sugar") || !strings.Contains(text, "GetSweet") {
			t.Errorf("logged %q", text)
		}
		call(t.Context(), "fudge").is(t, "and still", "answer 1")
	}, cache.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
}

// Close ends what is under way, and waits for it.
func TestCloseEndsRefreshes(t *testing.T) {
	var ended atomic.Bool
	answer := func(ctx context.Context, e *exchange) error {
		if e.number == 1 {
			return nil
		}
		<-ctx.Done()
		time.Sleep(time.Millisecond)
		ended.Store(true)
		return context.Cause(ctx)
	}
	both(t, refreshed, answer, func(t *testing.T, call callFunc, _ *backend, c *cache.Cache) {
		ended.Store(false)
		call(t.Context(), "fudge")
		time.Sleep(time.Minute)
		call(t.Context(), "fudge")
		synctest.Wait()
		c.Close()
		want(t, "ended", ended.Load(), true)
	})
}

// Answers that took long are refreshed before their time, by one call of many, and all
// others are hits.
func TestAnswersAreRefreshedEarly(t *testing.T) {
	eager := func() *policyv1.CacheRule {
		rule := anybody()
		rule.EarlyRefresh = proto.Float64(1)
		return rule
	}
	slow := func(ctx context.Context, e *exchange) error { return after(time.Second, nil)(ctx, e.number) }
	both(t, eager, slow, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
		call(t.Context(), "fudge")
		for range 200 * 60 { // 200 a second, for a minute
			if got := call(t.Context(), "fudge"); got.err != nil {
				t.Fatal(got.err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		got := c.Stats().Counts
		want(t, "misses", got.Misses, 1)
		if got.Refreshed == 0 || got.Refreshed > 3 || b.count() > 4 {
			t.Errorf("%+v: want a refresh shortly before the minute is over", got)
		}
		time.Sleep(3 * time.Second)
	})
}

// A call that nobody refreshed in time waits with the others for one.
func TestARefreshUnderWayIsWaitedFor(t *testing.T) {
	rule := func() *policyv1.CacheRule {
		r := anybody()
		r.StaleWhileRevalidate = proto.String("1s")
		return r
	}
	slow := func(ctx context.Context, e *exchange) error { return after(1500*time.Millisecond, nil)(ctx, e.number) }
	both(t, rule, slow, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
		call(t.Context(), "fudge")
		time.Sleep(time.Minute)
		call(t.Context(), "fudge").is(t, "in the window", "answer 1")
		time.Sleep(time.Second)
		var work sync.WaitGroup
		for range 10 {
			work.Go(func() { call(t.Context(), "fudge").is(t, "past the window", "answer 2") })
		}
		work.Wait()
		want(t, "calls", b.count(), 2)
		want(t, "coalesced", c.Stats().Coalesced, 10)
	})
}

// syncBuffer is written to by a logger.
type syncBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.text.Reset()
	return b.text.String()
}
