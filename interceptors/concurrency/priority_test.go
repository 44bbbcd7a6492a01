package concurrency_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func prioritized(most uint32) *policyv1.ConcurrencyRule {
	return &policyv1.ConcurrencyRule{Max: &most, PriorityMetadata: ptr("priority")}
}

// of is the context of a call with priorities, of a peer that is trusted.
func of(priorities ...string) context.Context {
	md := metadata.MD{"priority": priorities, "trusted": {"yes"}}
	return metadata.NewIncomingContext(context.Background(), md)
}

func trusted(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, "trusted")) > 0
}

// admitted is how many of 200 calls run at once.
func admitted(t *testing.T, ctx context.Context, rule *policyv1.ConcurrencyRule, opts ...concurrency.Option) (n int, stats concurrency.Stats) {
	t.Helper()
	l := newLimiter(t, opts...)
	call := callOf(l, policies(t, rule), getSweet)
	var next func(context.Context) error
	next = func(ctx context.Context) error {
		if n++; n < 200 {
			return call(ctx, next)
		}
		return nil
	}
	if err := call(ctx, next); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	return n, statsOf(t, l, getSweet)
}

// L12: priorities count only from trusted peers.
func TestPrioritiesCountFromTrustedPeersOnly(t *testing.T) {
	stranger := metadata.NewIncomingContext(context.Background(), metadata.Pairs("priority", "critical_plus"))
	stranger2 := metadata.NewIncomingContext(context.Background(), metadata.Pairs("priority", "critical_plus", "priority", "sheddable"))
	trust := trusting(trusted)
	for _, tt := range []struct {
		name    string
		ctx     context.Context
		opts    []concurrency.Option
		want    int
		ignored uint64
	}{
		{"critical_plus", of("critical_plus"), []concurrency.Option{trust}, 100, 0},
		{"critical", of("critical"), []concurrency.Option{trust}, 90, 0},
		{"sheddable_plus", of("sheddable_plus"), []concurrency.Option{trust}, 75, 0},
		{"sheddable", of("sheddable"), []concurrency.Option{trust}, 50, 0},
		{"none", of(), []concurrency.Option{trust}, 90, 0},
		{"no metadata", context.Background(), []concurrency.Option{trust}, 90, 0},
		{"a stranger", stranger, []concurrency.Option{trust}, 90, 91},
		{"nobody is trusted", of("critical_plus"), nil, 90, 91},
		{"unknown", of("VERY IMPORTANT"), []concurrency.Option{trust}, 90, 91},
		{"two of a stranger", stranger2, []concurrency.Option{trust}, 90, 91},
	} {
		got, stats := admitted(t, tt.ctx, prioritized(100), tt.opts...)
		want(t, tt.name, got, tt.want)
		want(t, tt.name+": ignored", stats.Ignored, tt.ignored)
	}
}

// L16: of several priorities, nobody may choose which one counts.
func TestSeveralPrioritiesAreRefused(t *testing.T) {
	call := callOf(newLimiter(t, trusting(trusted)), policies(t, prioritized(10)), getSweet)
	err := call(of("critical_plus", "sheddable"), succeed)
	want(t, "code", status.Code(err), codes.InvalidArgument)
	want(t, "the key is named", strings.Contains(err.Error(), `"priority"`), true)
	want(t, "one of them", call(of("sheddable"), succeed), nil)
}

// Without a key in the policy, all calls may use the whole limit; and with few places,
// nobody is shut out.
func TestPrioritiesLeaveEverybodyAPlace(t *testing.T) {
	trust := trusting(trusted)
	got, stats := admitted(t, of("sheddable"), static(100), trust)
	want(t, "without a key", got, 100)
	want(t, "ignored", stats.Ignored, 0)
	got, _ = admitted(t, of("sheddable"), prioritized(1), trust)
	want(t, "one place", got, 1)
}

// What matters finds room that what matters less has left.
func TestTheRestOfTheLimitIsForWhatMatters(t *testing.T) {
	call := callOf(newLimiter(t, trusting(trusted)), policies(t, prioritized(10)), getSweet)
	calls := hold(t, call, 0)
	defer calls.letGo()
	calls.more(t, of("sheddable"), 5)
	want(t, "one more that is sheddable", status.Code(call(of("sheddable"), succeed)), codes.Unavailable)
	calls.more(t, of("critical"), 4)
	want(t, "one more that is critical", status.Code(call(of("critical"), succeed)), codes.Unavailable)
	calls.more(t, of("critical_plus"), 1)
	want(t, "one more", status.Code(call(of("critical_plus"), succeed)), codes.Unavailable)
}
