package ratelimit_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/ratelimit"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

// The figures show the limits and who is near one, ten at most, and no secret.
func TestStatsHaveTheHotKeys(t *testing.T) {
	rich := limit("token", 10, byMetadata("token"))
	rich.Cost, rich.Refund, rich.WarmUp = proto.Uint64(2), policyv1.Refund_REFUND_FAILED, proto.String("0s")
	l, p := newLimiter(t), policies(t, limit("address", 5, byPeer()), rich, limit("all", 1e6, nil))
	as := func(peer, token string) context.Context {
		return metadata.NewIncomingContext(tcp(peer), metadata.Pairs("token", token))
	}
	for i, calls := range []int{1, 2, 4, 5, 7} {
		for range calls {
			_ = handle(l, p, as(fmt.Sprintf("192.0.2.%d:1", i), fmt.Sprint("hunter", i)), nil)
		}
	}
	_ = handle(l, p, as("[2001:db8::1]:1", ""), nil)
	stats := l.Stats()
	text, err := json.Marshal(stats)
	if err != nil || strings.Contains(string(text), "hunter") {
		t.Errorf("figures show a secret, or %v: %s", err, text)
	}
	want(t, "limits", fmt.Sprint(stats.Limits), "[{"+browse+" server address 5 per 1m0s peer  2 0} {"+browse+
		" server token 10 per 1m0s metadata token cost 2, refund failed 0 0} {"+browse+" server all 1000000 per 1m0s   0 0}]")
	var near []string
	for _, n := range stats.HotKeys {
		if n.Name == "token" {
			want(t, "a hash", len(n.Key) == 9 && n.Key[0] == '#', true)
			continue
		}
		near = append(near, fmt.Sprintf("%s %s %s %d", n.Method, n.Name, n.Key, n.Remaining))
	}
	slices.Sort(near)
	want(t, "near", strings.Join(near, ", "), browse+" address 192.0.2.2 1, "+browse+" address 192.0.2.3 0, "+browse+" address 192.0.2.4 0")
	want(t, "near in all", len(stats.HotKeys), 6)
	for i := range 500 {
		for range 5 {
			_ = handle(l, p, as(fmt.Sprintf("198.51.%d.%d:1", i/250, i%250), fmt.Sprint("other", i)), nil)
		}
	}
	stats = l.Stats()
	want(t, "ten at most", len(stats.HotKeys), 10)
	want(t, "most first", stats.HotKeys[0].Used >= stats.HotKeys[9].Used && stats.HotKeys[9].Used > 0.9, true)
	if err := p.SetOperator(policy(limit("address", 4, byPeer()), limit("all", 1, nil), &policyv1.RateLimitRule{Name: "token", Disabled: proto.Bool(true)})); err != nil {
		t.Fatal(err)
	}
	_ = handle(l, p, tcp("192.0.2.1:1"), nil)
	want(t, "limits after a change", len(l.Stats().Limits), 2)
	off := func(name string) *policyv1.RateLimitRule {
		return &policyv1.RateLimitRule{Name: name, Disabled: proto.Bool(true)}
	}
	if err := p.SetOperator(policy(off("address"), off("all"), off("token"))); err != nil {
		t.Fatal(err)
	}
	_ = handle(l, p, tcp("192.0.2.1:1"), nil)
	want(t, "limits after the last was dropped", len(l.Stats().Limits), 0)
}

// L11 (exempt): Health and reflection are exempt from defaults, also with limits by
// the builder and the operator.
func TestServicesOfGRPCAreExempt(t *testing.T) {
	everything := &policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{RateLimits: []*policyv1.RateLimitRule{limit("one", 1, nil)}}}
	p, err := interceptors.NewPolicies(everything)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SetOperator(everything); err != nil {
		t.Fatal(err)
	}
	l := newLimiter(t)
	for _, method := range []string{"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"} {
		for _, side := range []interceptors.Side{interceptors.Server, interceptors.Client} {
			meta := p.Call(side, method)
			if l.UnaryServer(meta) != nil || l.StreamServer(meta) != nil || l.UnaryClient(meta) != nil || l.StreamClient(meta) != nil {
				t.Errorf("%s is limited on the %v", method, side)
			}
		}
	}
	if l.UnaryServer(p.Call(interceptors.Server, browse)) == nil {
		t.Error("Browse is not limited")
	}
}

// The limiter is one of go-grpc-middleware too, and its trailer survives.
func TestMiddlewareOfOthers(t *testing.T) {
	l := newLimiter(t)
	var limiter middleware.Limiter = l.Middleware(policies(t, limit("one", 2, byMetadata("id"))))
	conn := dial(t, []grpc.ServerOption{grpc.UnaryInterceptor(middleware.UnaryServerInterceptor(limiter))}, nil)
	call := func(id string) (trailer metadata.MD, err error) {
		ctx := metadata.AppendToOutgoingContext(context.Background(), "id", id)
		_, err = storefrontv1.NewStorefrontServiceClient(conn).Browse(ctx, &storefrontv1.BrowseRequest{}, grpc.Trailer(&trailer))
		return trailer, err
	}
	for range 2 {
		_, err := call("a")
		want(t, "call", err, nil)
	}
	trailer, err := call("a")
	want(t, "refused", refused(err), true)
	want(t, "names the limit", strings.Contains(err.Error(), `rate limit \"one\" reached`) || strings.Contains(err.Error(), `rate limit "one" reached`), true)
	want(t, "pushbacks", len(trailer.Get("grpc-retry-pushback-ms")), 1)
	want(t, "fields", len(trailer.Get("ratelimit-policy")), 1)
	_, err = call("b")
	want(t, "another", err, nil)
	if err := limiter.Limit(context.Background()); err == nil {
		t.Error("a call without a method is admitted")
	}
}
