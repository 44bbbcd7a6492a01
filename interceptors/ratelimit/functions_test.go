package ratelimit_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

func first(ctx context.Context, name string) string {
	if values := metadata.ValueFromIncomingContext(ctx, name); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Functions of the builder take the place of what the policy says.
func TestFunctionsOfALimit(t *testing.T) {
	key := ratelimit.WithKey("one", func(ctx context.Context, _ any) (string, bool) {
		tenant, _, ok := strings.Cut(first(ctx, "user"), "@")
		return tenant, ok
	})
	cost := ratelimit.WithCost("one", func(_ context.Context, req any) uint64 {
		return uint64(len(req.(*storefrontv1.BrowseRequest).GetSection()))
	})
	gold := ratelimit.WithLimit("one", func(ctx context.Context, _ any, policy ratelimit.Limit) ratelimit.Limit {
		switch first(ctx, "plan") {
		case "gold":
			policy.Calls *= 2
		case "none":
			policy.Calls = 0
		}
		return policy
	})
	skip := ratelimit.WithSkip("one", func(ctx context.Context, _ any) bool { return first(ctx, "plan") == "staff" })
	section := func(name string) *storefrontv1.BrowseRequest { return &storefrontv1.BrowseRequest{Section: name} }

	l, p := newLimiter(t, key), policies(t, limit("one", 3, byPeer()), limit("other", 100, nil))
	want(t, "a tenant's", admitted(t, l, p, from("user", "shop@a"), nil, 5), 3)
	want(t, "the same tenant's", admitted(t, l, p, from("user", "shop@b"), nil, 5), 0)
	want(t, "another's", admitted(t, l, p, from("user", "bakery@a"), nil, 5), 3)
	want(t, "without a tenant", admitted(t, l, p, from("user", "a"), nil, 5)+admitted(t, l, p, from("user", "b"), nil, 5), 3)

	l = newLimiter(t, cost)
	want(t, "of cost 2", admitted(t, l, p, context.Background(), section("ab"), 5), 1)
	want(t, "of cost 1", admitted(t, l, p, context.Background(), section("a"), 5), 1)
	want(t, "of cost 0", admitted(t, l, p, context.Background(), section(""), 5), 5)
	want(t, "of more than the burst", admitted(t, l, p, context.Background(), section("abcd"), 5), 0)

	l, p = newLimiter(t, gold, skip), policies(t, limit("one", 3, byMetadata("plan")))
	want(t, "gold", admitted(t, l, p, from("plan", "gold"), nil, 20), 6)
	want(t, "plain", admitted(t, l, p, from("plan", "plain"), nil, 20), 3)
	want(t, "none", admitted(t, l, p, from("plan", "none"), nil, 20), 0)
	want(t, "staff", admitted(t, l, p, from("plan", "staff"), nil, 20), 20)
}

// A key can be read and reset, however the limit counts.
func TestKeysAreReadAndReset(t *testing.T) {
	byUser := callers(caller.WithIdentityMetadata("user"))
	function := ratelimit.WithKey("function", func(ctx context.Context, _ any) (string, bool) { return first(ctx, "id"), true })
	l := newLimiter(t, byUser, function)
	p := policies(t, limit("all", 100, nil), limit("peer", 100, byPeer()), limit("identity", 100, byIdentity()),
		limit("metadata", 100, byMetadata("id")), limit("field", 100, byField("section")), limit("function", 100, nil))
	ctx := metadata.NewIncomingContext(tcp("[2001:db8::7]:1"), metadata.Pairs("user", "willy", "id", "7"))
	for range 5 {
		want(t, "call", handle(l, p, ctx, &storefrontv1.BrowseRequest{Section: "chewy"}), nil)
	}
	for _, test := range []struct{ limit, key, other string }{
		{"all", "", ""}, {"peer", "2001:db8::9", "2001:db8:1::"}, {"peer", "2001:db8::/64", "192.0.2.1"},
		{"identity", "willy", "charlie"}, {"metadata", "7", "8"}, {"field", "chewy", "hard"}, {"function", "7", ""},
	} {
		s, err := l.Standing(browse, test.limit, test.key)
		want(t, test.limit+": error", err, nil)
		want(t, test.limit+": remaining", s.Remaining, 95)
		want(t, test.limit+": reset", s.Reset > 2*time.Second && s.Reset <= 3*time.Second, true)
		if test.other != test.key {
			s, _ = l.Standing(browse, test.limit, test.other)
			want(t, test.limit+": remaining of another", s.Remaining, 100)
		}
	}
	want(t, "reset", l.Reset(browse, "metadata", "7"), nil)
	s, _ := l.Standing(browse, "metadata", "7")
	want(t, "after it", s.Remaining, 100)
	s, _ = l.Standing(browse, "field", "chewy")
	want(t, "of another limit", s.Remaining, 95)
	want(t, "call", handle(l, p, ctx, nil), nil)
	for _, test := range []struct{ method, limit, key, says string }{
		{browse, "none", "", `limit "none" of "/sweetshop`},
		{"/no.Such/Method", "all", "", `limit "all" of "/no.Such/Method"`},
		{browse, "all", "7", `"7" is no key`},
	} {
		err := l.Reset(test.method, test.limit, test.key)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("error is %v, want one that says %q", err, test.says)
		}
	}

	table := newTable(t, 64)
	minute := ratelimit.Limit{Calls: 10, Period: time.Hour}
	table.Allow("k", minute, 4)
	want(t, "table", table.Standing("k", minute).Remaining, 6)
	table.Reset("k")
	want(t, "table, reset", table.Standing("k", minute), ratelimit.Standing{Limit: ratelimit.Limit{Calls: 10, Period: time.Hour, Burst: 10}, Remaining: 10})
}
