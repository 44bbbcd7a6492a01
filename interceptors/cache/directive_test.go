package cache_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// ops are trusted with directives on the server.
var ops = callersOf(caller.WithIdentityMetadata("customer"), caller.WithTrusted(func(ctx context.Context) bool {
	return fmt.Sprint(metadata.ValueFromIncomingContext(ctx, "who")) == "[ops]"
}))

// What an answer says of keeping it makes shorter what the policy allows, never longer.
func TestAnswersSayHowLongTheyAreKept(t *testing.T) {
	for directives, fresh := range map[string]time.Duration{
		"":                          time.Minute,
		"max-age=10":                10 * time.Second,
		"max-age=3600":              time.Minute,
		"max-age=30, s-maxage=10":   10 * time.Second, // the rule is public
		"s-maxage=20, max-age=1":    20 * time.Second,
		"no-store":                  0,
		"no-cache":                  0,
		"private":                   0, // the rule is public
		"max-age=0":                 0,
		"public, immutable, junk=x": time.Minute,
		"max-age=junk":              0,
	} {
		answer := func(_ context.Context, e *exchange) error {
			e.header.Set("cache-control", directives)
			return nil
		}
		both(t, anybody, answer, func(t *testing.T, call callFunc, _ *backend, _ *cache.Cache) {
			call(t.Context(), "fudge")
			if fresh > 0 {
				time.Sleep(fresh - time.Nanosecond)
				call(t.Context(), "fudge").is(t, directives, "answer 1")
				time.Sleep(time.Nanosecond)
			}
			call(t.Context(), "fudge").is(t, directives, "answer 2")
		})
	}
}

// The age that an answer comes with counts, and the caller receives it.
func TestAgeCounts(t *testing.T) {
	answer := func(_ context.Context, e *exchange) error {
		e.header.Set("age", "20")
		return nil
	}
	both(t, anybody, answer, func(t *testing.T, call callFunc, _ *backend, _ *cache.Cache) {
		call(t.Context(), "fudge").is(t, "at first", "answer 1", "age", "[20]")
		time.Sleep(39 * time.Second)
		call(t.Context(), "fudge").is(t, "after 39 s", "answer 1", "age", "[59]")
		time.Sleep(time.Second)
		call(t.Context(), "fudge").is(t, "after 40 s", "answer 2", "age", "[20]")
	})
}

// An age beyond all bounds is old, and of a list the first counts.
func TestAnAgeBeyondTheTTLIsOld(t *testing.T) {
	for _, age := range []string{"60", "2147483647", "2147483648", "99999999999999999999999", "120, 5"} {
		answer := func(_ context.Context, e *exchange) error {
			e.header.Set("age", age)
			return nil
		}
		both(t, anybody, answer, func(t *testing.T, call callFunc, _ *backend, _ *cache.Cache) {
			call(t.Context(), "fudge")
			call(t.Context(), "fudge").is(t, "age "+age, "answer 2")
		})
	}
}

// A caller may want more than freshness, or less.
func TestCallersSayWhatTheyTake(t *testing.T) {
	lax := func() *policyv1.CacheRule {
		rule := anybody()
		rule.StaleIfError = proto.String("30s")
		return rule
	}
	for _, test := range []struct {
		rule    func() *policyv1.CacheRule
		age     time.Duration
		says    string
		name    string
		results string
	}{
		{anybody, 30 * time.Second, "", "answer 1", "hit"},
		{anybody, 30 * time.Second, "max-age=30", "answer 1", "hit"},
		{anybody, 30 * time.Second, "max-age=29", "answer 2", "miss"},
		{anybody, 30 * time.Second, "min-fresh=30", "answer 1", "hit"},
		{anybody, 30 * time.Second, "min-fresh=31", "answer 2", "miss"},
		{anybody, time.Second, "no-cache", "answer 2", "miss"},
		{anybody, time.Second, "no-store", "answer 2", "bypass"},
		{anybody, 70 * time.Second, "max-stale=20", "answer 2", "miss"}, // the policy has no window
		{lax, 70 * time.Second, "", "answer 2", "miss"},
		{lax, 70 * time.Second, "max-stale=20", "answer 1", "stale"},
		{lax, 70 * time.Second, "max-stale=9", "answer 2", "miss"},
		{lax, 70 * time.Second, "max-stale", "answer 1", "stale"},
		{lax, 90 * time.Second, "max-stale", "answer 2", "miss"},
		{refreshed, 70 * time.Second, "", "answer 1", "stale"},
		{refreshed, 70 * time.Second, "max-age=100", "answer 2", "miss"},
		{refreshed, 70 * time.Second, "min-fresh=1", "answer 2", "miss"},
		{strict, 70 * time.Second, "max-stale", "answer 2", "miss"},
		{anybody, 30 * time.Second, "only-if-cached", "answer 1", "hit"},
	} {
		both(t, test.rule, nil, func(t *testing.T, call callFunc, _ *backend, _ *cache.Cache) {
			call(t.Context(), "fudge", "who", "ops")
			time.Sleep(test.age)
			what := fmt.Sprintf("%q after %v", test.says, test.age)
			kv := []string{"who", "ops", "cache-control", test.says, "x-cache", "?"}
			call(t.Context(), "fudge", kv...).is(t, what, test.name, "x-cache", "["+test.results+"]")
			time.Sleep(time.Second)
			call(t.Context(), "fudge", "who", "ops") // what a directive has fetched is kept, but for no-store
		}, ops)
	}
}

// What is forced to be fetched is kept for others, and what no-store fetches is not.
func TestForcedFetchesAreKept(t *testing.T) {
	both(t, anybody, nil, func(t *testing.T, call callFunc, b *backend, _ *cache.Cache) {
		call(t.Context(), "fudge").is(t, "at first", "answer 1")
		call(t.Context(), "fudge", "who", "ops", "cache-control", "no-store").is(t, "no-store", "answer 2")
		call(t.Context(), "fudge").is(t, "after no-store", "answer 1")
		call(t.Context(), "fudge", "who", "ops", "cache-control", "no-cache").is(t, "no-cache", "answer 3")
		call(t.Context(), "fudge").is(t, "after no-cache", "answer 3")
		want(t, "calls", b.count(), 3)
	}, ops)
}

// Whoever says only-if-cached makes no call, whatever else it says.
func TestOnlyIfCached(t *testing.T) {
	for _, says := range []string{"only-if-cached", "only-if-cached, no-cache"} {
		both(t, anybody, nil, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
			got := call(t.Context(), "fudge", "who", "ops", "cache-control", says)
			if status.Code(got.err) != codes.FailedPrecondition || !strings.Contains(got.err.Error(), "only-if-cached") {
				t.Errorf("%s: %v", says, got.err)
			}
			want(t, "calls", b.count(), 0)
			want(t, "misses", c.Stats().Misses, 1)
		}, ops)
	}
}

// C15: directives of a peer that is not trusted are ignored and counted. A client's own
// program is trusted.
//
// Case C15: Directives of strangers are ignored and counted.
func TestDirectivesOfStrangersAreIgnored(t *testing.T) {
	for name, opts := range map[string][]cache.Option{"nobody is trusted": nil, "others are": {ops}} {
		both(t, anybody, nil, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
			call(t.Context(), "fudge")
			for _, says := range []string{"no-cache", "no-store", "max-age=0", "min-fresh=1000"} {
				time.Sleep(time.Second)
				call(t.Context(), "fudge", "cache-control", says)
			}
			ignored := c.Stats().IgnoredDirectives
			if strings.Contains(t.Name(), "/server") {
				want(t, name+": calls", b.count(), 1)
				want(t, name+": ignored", ignored, 4)
			} else {
				want(t, "calls of a client", b.count(), 5)
				want(t, "ignored by a client", ignored, 0)
			}
		}, opts...)
	}
}

// An answer that varies is kept for each value of what it varies by.
func TestAnswersSayWhatTheyVaryBy(t *testing.T) {
	answer := func(_ context.Context, e *exchange) error {
		e.header.Set("vary", "Accept-Language, x-tenant")
		return nil
	}
	both(t, anybody, answer, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
		for range 2 {
			call(t.Context(), "fudge", "accept-language", "en").is(t, "en", "answer 1")
			call(t.Context(), "fudge", "accept-language", "de").is(t, "de", "answer 2")
			call(t.Context(), "fudge", "accept-language", "de", "x-tenant", "a").is(t, "de for a", "answer 3")
			call(t.Context(), "fudge", "accept-language", "de", "accept-language", "en").is(t, "both", "answer 4")
			call(t.Context(), "fudge").is(t, "none", "answer 5")
		}
		want(t, "calls", b.count(), 5)
		want(t, "stored", c.Stats().Stored, 5) // what leads to them is no answer
	})
	for _, vary := range []string{"*", " *", "accept-language, *"} {
		all := func(_ context.Context, e *exchange) error {
			e.header.Set("vary", vary)
			return nil
		}
		both(t, anybody, all, func(t *testing.T, call callFunc, b *backend, _ *cache.Cache) {
			call(t.Context(), "fudge")
			call(t.Context(), "fudge").is(t, "vary by everything", "answer 2")
		})
	}
}

// Who waits for a call that varies by more than was known is not given another's answer.
func TestWaitersAreNotGivenAnothersVariant(t *testing.T) {
	answer := func(ctx context.Context, e *exchange) error {
		e.header.Set("vary", "accept-language")
		e.header.Set("content-language", strings.Join(e.asked.Get("accept-language"), ""))
		return after(time.Second, nil)(ctx, e.number)
	}
	both(t, anybody, answer, func(t *testing.T, call callFunc, b *backend, _ *cache.Cache) {
		done := make(chan struct{})
		for i := range 20 {
			language := []string{"en", "de"}[i%2]
			go func() {
				got := call(t.Context(), "fudge", "accept-language", language)
				got.is(t, language, got.name, "content-language", "["+language+"]")
				done <- struct{}{}
			}()
		}
		for range 20 {
			<-done
		}
		want(t, "calls", b.count(), 2)
	})
}
