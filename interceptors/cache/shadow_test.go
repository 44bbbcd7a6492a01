package cache_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// shadow is anybody, in shadow mode.
func shadow() *policyv1.CacheRule {
	rule := anybody()
	rule.Shadow = proto.Bool(true)
	return rule
}

// In shadow mode each call is made, and the figures have the share of stale answers by ttl.
func TestShadowMode(t *testing.T) {
	// The answer changes each 20 seconds; the store room is shut for one second of them.
	answer := func(_ context.Context, e *exchange) error {
		if e.number == 30 {
			return status.Error(codes.Unavailable, "away")
		}
		e.number = (e.number - 1) / 20
		return nil
	}
	both(t, shadow, answer, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
		for second := range 120 {
			got := call(t.Context(), "fudge")
			if second == 29 {
				want(t, "an outage", status.Code(got.err), codes.Unavailable)
			} else {
				got.is(t, "always fresh", "answer "+string(rune('0'+second/20)))
			}
			time.Sleep(time.Second)
		}
		want(t, "calls", b.count(), 120)
		// It keeps answer 0 for a minute, and then answer 3.
		want(t, "stats", c.Stats().Counts, cache.Counts{Misses: 3, ShadowHits: 2 * 19, ShadowStale: 2*40 - 1, Stored: 2})
		methods := c.Methods()
		if len(methods) != 1 || len(methods[0].Shadow) != 11 {
			t.Fatalf("%+v", methods)
		}
		by := map[time.Duration]cache.ShadowStats{}
		for _, s := range methods[0].Shadow {
			by[s.UpTo] = s
		}
		want(t, "up to 1 s", by[time.Second], cache.ShadowStats{UpTo: time.Second, Compared: 2})
		want(t, "up to 15 s", by[15*time.Second], cache.ShadowStats{UpTo: 15 * time.Second, Compared: 30})
		want(t, "up to 30 s", by[30*time.Second], cache.ShadowStats{UpTo: 30 * time.Second, Compared: 59, Changed: 21})
		want(t, "all", by[0], cache.ShadowStats{Compared: 117, Changed: 79})
	})
}

// In shadow a server's cache adds no etag, and says of no answer that it is not modified.
func TestShadowModeChangesNoAnswer(t *testing.T) {
	on(t, serverOf, shadow, nil, func(t *testing.T, call callFunc, _ *backend, _ *cache.Cache) {
		open := serverOf(t, newCache(t), anybody(), &backend{})(t.Context(), "fudge")
		for _, name := range []string{"answer 1", "answer 2"} {
			call(t.Context(), "fudge", "if-none-match", open.header.Get("etag")[0]).is(t, "in shadow", name, "etag", "[]", "not-modified", "[]")
		}
	})
	own := func(_ context.Context, e *exchange) error {
		e.header.Set("etag", `"v1"`)
		e.header.Set("was-asked", fmt.Sprint(e.asked.Get("if-none-match")))
		return nil
	}
	on(t, serverOf, shadow, own, func(t *testing.T, call callFunc, _ *backend, _ *cache.Cache) {
		call(t.Context(), "fudge", "if-none-match", `"v1"`).is(t, "with an etag of the handler", "answer 1", "not-modified", "[]", "was-asked", `[["v1"]]`)
	})
}
