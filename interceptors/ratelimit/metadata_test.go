package ratelimit_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// fromPeer is from, of a caller at an address.
func fromPeer(addr string, kv ...string) context.Context {
	p, _ := peer.FromContext(tcp(addr))
	return peer.NewContext(from(kv...), p)
}

// tricks are ways to send a key, and whether the call is refused for it.
var tricks = []struct {
	name    string
	kv      func(i int) []string
	refused bool
}{
	{"plain", func(int) []string { return []string{"id", "alice"} }, false},
	{"another case", func(i int) []string { return []string{[]string{"id", "ID", "Id"}[i%3], "alice"} }, false},
	{"beside others", func(i int) []string { return []string{"id", "alice", "id-bin", fmt.Sprint(i), "other", fmt.Sprint(i)} }, false},
	{"a second value", func(i int) []string { return []string{"id", "alice", "id", fmt.Sprint(i)} }, true},
	{"a value before", func(i int) []string { return []string{"id", fmt.Sprint(i), "id", "alice"} }, true},
	{"empty, and a second", func(i int) []string { return []string{"id", "", "id", fmt.Sprint(i)} }, true},
	{"again and again", func(i int) (kv []string) {
		for range i%50 + 2 {
			kv = append(kv, "id", "alice")
		}
		return kv
	}, true},
	{"over-long", func(i int) []string { return []string{"id", strings.Repeat("a", 8<<10) + fmt.Sprint(i)} }, true},
	{"absent or empty", func(i int) []string { return []string{"id", ""}[:i%2*2] }, false},
}

// L16: a key from metadata means the same as what a handler reads, or the call is
// refused, and the key named. Nobody gets more than the limit by sending it in another
// way, and no value is repeated in an error.
func TestNobodyEvadesALimitByItsMetadata(t *testing.T) {
	for name, key := range map[string]*policyv1.RateLimitKey{"metadata": byMetadata("id"), "identity": byIdentity()} {
		for _, trick := range tricks {
			t.Run(name+", "+trick.name, func(t *testing.T) {
				l, p := newLimiter(t, callers(caller.WithIdentityMetadata("id"))), policies(t, limit("one", 5, key))
				ok, refused := 0, 0
				for i := range 200 {
					switch err := handle(l, p, from(trick.kv(i)...), nil); status.Code(err) {
					case codes.OK:
						ok++
					case codes.InvalidArgument:
						refused++
						want(t, "the key is named, and no value", strings.Contains(err.Error(), `"id"`) && !strings.Contains(err.Error(), "alice"), true)
					}
				}
				if trick.refused {
					want(t, "refused", refused, 200)
					want(t, "counted", l.Stats().Refused, 200)
				} else {
					want(t, "admitted", ok, 5)
				}
			})
		}
	}
}

// A limit in shadow refuses nobody, and takes who has no valid key for one caller.
func TestALimitInShadowRefusesNoMetadata(t *testing.T) {
	rule := limit("one", 5, byMetadata("id"))
	shadow := true
	rule.Shadow, rule.MissingKey = &shadow, policyv1.MissingKey_MISSING_KEY_REFUSE
	l, p := newLimiter(t), policies(t, rule)
	for i := range 10 {
		want(t, "two", handle(l, p, from("id", "alice", "id", fmt.Sprint(i)), nil), nil)
		want(t, "none", handle(l, p, from(), nil), nil)
	}
	want(t, "would be refused", l.Stats().Shadowed, 15)
}

// A call without the key is its own case: the policy says which, and the refusal, too.
func TestCallsWithoutTheKey(t *testing.T) {
	one, other := fromPeer("192.0.2.1:1"), fromPeer("192.0.2.2:1")
	named := fromPeer("192.0.2.1:1", "id", "alice")
	for _, test := range []struct {
		missing policyv1.MissingKey
		key     *policyv1.RateLimitKey
		other   codes.Code // of a call of another peer when one has used its limit up
		code    codes.Code // of the peer's next call
		message string
	}{
		{policyv1.MissingKey_MISSING_KEY_UNSPECIFIED, byMetadata("id"), codes.ResourceExhausted, codes.ResourceExhausted,
			`the call has no metadata "id" and counts with all that have none`},
		{policyv1.MissingKey_MISSING_KEY_SHARED, byMetadata("id"), codes.ResourceExhausted, codes.ResourceExhausted,
			`the call has no metadata "id" and counts with all that have none`},
		{policyv1.MissingKey_MISSING_KEY_PEER, byMetadata("id"), codes.OK, codes.ResourceExhausted,
			`the call has no metadata "id" and counts by its network address`},
		{policyv1.MissingKey_MISSING_KEY_REFUSE, byMetadata("id"), codes.InvalidArgument, codes.InvalidArgument,
			`the call has no metadata "id", by which its rate limit counts: send it`},
		{policyv1.MissingKey_MISSING_KEY_REFUSE, byIdentity(), codes.InvalidArgument, codes.InvalidArgument,
			`the call has no identity, by which its rate limit counts: send it`},
		{policyv1.MissingKey_MISSING_KEY_PEER, byIdentity(), codes.OK, codes.ResourceExhausted,
			`the call has no identity and counts by its network address`},
	} {
		t.Run(fmt.Sprint(test.missing), func(t *testing.T) {
			rule := limit("one", 1, test.key)
			rule.MissingKey = test.missing
			opts := []ratelimit.Option{}
			if test.key.GetIdentity() != nil {
				opts = append(opts, callers(caller.WithIdentity(func(ctx context.Context) (string, bool) { return first(ctx, "id"), first(ctx, "id") != "" })))
			}
			l, p := newLimiter(t, opts...), policies(t, rule)
			_ = handle(l, p, one, nil)
			err := handle(l, p, one, nil)
			want(t, "code", status.Code(err), test.code)
			want(t, "message of "+fmt.Sprint(err), strings.Contains(fmt.Sprint(err), test.message), true)
			want(t, "another peer", status.Code(handle(l, p, other, nil)), test.other)
			want(t, "with the key", handle(l, p, named, nil), nil)
			want(t, "with the key, again", strings.Contains(fmt.Sprint(handle(l, p, named, nil)), "the call has no"), false)
		})
	}
}

// On a client, the metadata that goes out counts, by the same rule.
func TestNobodyEvadesALimitOfAClient(t *testing.T) {
	rule := limit("one", 5, byMetadata("id"))
	rule.Side = policyv1.Side_SIDE_CLIENT
	client := newLimiter(t).UnaryClientInterceptor(policies(t, rule))
	got := map[codes.Code]int{}
	for i := range 20 {
		err, _ := answering(client, metadata.AppendToOutgoingContext(context.Background(), "id", "alice"), nil)
		got[status.Code(err)]++
		err, made := answering(client, metadata.AppendToOutgoingContext(context.Background(), "id", "alice", "id", fmt.Sprint(i)), nil)
		want(t, "made", made, false)
		got[status.Code(err)]++
	}
	want(t, "ok", got[codes.OK], 5)
	want(t, "several", got[codes.InvalidArgument], 20)
}
