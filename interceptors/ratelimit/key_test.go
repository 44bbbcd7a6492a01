package ratelimit_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

// at is the context of a call from an address.
func at(addr net.Addr, auth credentials.AuthInfo) context.Context {
	return peer.NewContext(context.Background(), &peer.Peer{Addr: addr, AuthInfo: auth})
}

func tcp(addr string) context.Context {
	return at(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)), nil)
}

// written is an address that is known by its text only, as behind net/http.
type written string

func (w written) Network() string { return "tcp" }
func (w written) String() string  { return string(w) }

func verified(leaf *x509.Certificate, id *url.URL) context.Context {
	return at(nil, credentials.TLSInfo{SPIFFEID: id, State: tls.ConnectionState{
		PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}},
	}})
}

// Calls count together exactly if they have the same key.
func TestKeys(t *testing.T) {
	prefix := &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Peer{Peer: &policyv1.PeerKey{Ipv6Prefix: proto.Uint32(48)}}}
	leaf := &x509.Certificate{RawSubject: []byte("shop"), DNSNames: []string{"shop.example"}}
	renewed := &x509.Certificate{RawSubject: []byte("shop"), DNSNames: []string{"shop.example"}, Raw: []byte("renewed")}
	other := &x509.Certificate{RawSubject: []byte("shop"), DNSNames: []string{"other.example"}}
	spiffe := &url.URL{Scheme: "spiffe", Host: "mesh", Path: "/shop"}
	unverified := at(nil, credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}})
	nobody := context.Background()
	page := func(token string) proto.Message { return &storefrontv1.BrowseRequest{PageToken: token} }
	dynamic := dynamicpb.NewMessage((&storefrontv1.BrowseRequest{}).ProtoReflect().Descriptor())
	dynamic.Set(dynamic.Descriptor().Fields().ByName("page_token"), protoreflect.ValueOfString("a"))

	for _, test := range []struct {
		name     string
		key      *policyv1.RateLimitKey
		opts     []ratelimit.Option
		one, two context.Context
		req1     proto.Message
		req2     proto.Message
		together bool
	}{
		{name: "all", one: from("id", "a"), two: from("id", "b"), together: true},

		{name: "peer, another port", key: byPeer(), one: tcp("192.0.2.1:1"), two: tcp("192.0.2.1:2"), together: true},
		{name: "peer, another address", key: byPeer(), one: tcp("192.0.2.1:1"), two: tcp("192.0.2.2:1")},
		{name: "peer, IPv4 in IPv6", key: byPeer(), one: tcp("192.0.2.1:1"), two: tcp("[::ffff:192.0.2.1]:1"), together: true},
		{name: "peer, IPv6 in one /64", key: byPeer(), one: tcp("[2001:db8::1]:1"), two: tcp("[2001:db8::ffff:2]:1"), together: true},
		{name: "peer, IPv6 with zones", key: byPeer(), one: tcp("[fe80::1%a]:1"), two: tcp("[fe80::1%b]:1"), together: true},
		{name: "peer, IPv6 in another /64", key: byPeer(), one: tcp("[2001:db8::1]:1"), two: tcp("[2001:db8:0:1::1]:1")},
		{name: "peer, IPv6 in one /48", key: prefix, one: tcp("[2001:db8::1]:1"), two: tcp("[2001:db8:0:1::1]:1"), together: true},
		{name: "peer, as written", key: byPeer(), one: tcp("192.0.2.1:1"), two: at(written("192.0.2.1:7"), nil), together: true},
		{name: "peer, not IP", key: byPeer(), one: at(written("one"), nil), two: at(written("two"), nil)},
		{name: "peer, unknown", key: byPeer(), one: nobody, two: at(nil, nil), together: true},

		{name: "metadata, same", key: byMetadata("id"), one: from("id", "a", "x", "1"), two: from("id", "a"), together: true},
		{name: "metadata, other", key: byMetadata("id"), one: from("id", "a"), two: from("id", "b")},
		{name: "metadata, a list", key: byMetadata("id"), one: from("id", "a,b"), two: from("id", "a")},
		{name: "metadata, another case", key: byMetadata("id"), one: metadata.NewIncomingContext(nobody, metadata.MD{"Id": {"a"}}), two: from("id", "a"), together: true},
		{name: "metadata, binary", key: byMetadata("id-bin"), one: from("id-bin", "\x00\xff"), two: from("id-bin", "\x00")},
		{name: "metadata, long", key: byMetadata("id"), one: from("id", strings.Repeat("a", 8191)+"a"), two: from("id", strings.Repeat("a", 8191)+"b")},
		{name: "metadata, missing", key: byMetadata("id"), one: nobody, two: from("x", "1"), together: true},
		{name: "metadata, missing or empty", key: byMetadata("id"), one: nobody, two: from("id", ""), together: true},

		{name: "identity, renewed certificate", key: byIdentity(), one: verified(leaf, nil), two: verified(renewed, nil), together: true},
		{name: "identity, other names", key: byIdentity(), one: verified(leaf, nil), two: verified(other, nil)},
		{name: "identity, SPIFFE", key: byIdentity(), one: verified(leaf, spiffe), two: verified(other, spiffe), together: true},
		{name: "identity, not verified", key: byIdentity(), one: unverified, two: nobody, together: true},
		{name: "identity, verified or not", key: byIdentity(), one: verified(leaf, nil), two: unverified},
		{name: "identity, declared", key: byIdentity(), opts: []ratelimit.Option{callers(caller.WithIdentityMetadata("user"))},
			one: from("user", "a"), two: from("user", "b")},
		{name: "identity, declared but unknown", key: byIdentity(),
			opts: []ratelimit.Option{callers(caller.WithIdentity(func(context.Context) (string, bool) { return "x", false }))},
			one:  from("user", "a"), two: from("user", "b"), together: true},

		{name: "field, same", key: byField("page_token"), one: nobody, two: nobody,
			req1: page("a"), req2: &storefrontv1.BrowseRequest{PageToken: "a", Section: "chewy"}, together: true},
		{name: "field, dynamic", key: byField("page_token"), one: nobody, two: nobody, req1: page("a"), req2: dynamic, together: true},
		{name: "field, other", key: byField("page_token"), one: nobody, two: nobody, req1: page("a"), req2: page("b")},
		{name: "field, absent", key: byField("page_token"), one: nobody, two: nobody, req1: page(""), req2: nil, together: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, p := newLimiter(t, test.opts...), policies(t, limit("one", 1, test.key))
			want(t, "first", handle(l, p, test.one, test.req1), nil)
			want(t, "first again admitted", handle(l, p, test.one, test.req1) == nil, false)
			want(t, "counted together", handle(l, p, test.two, test.req2) != nil, test.together)
		})
	}
}

// A field may be a list or a number too.
func TestFieldKeysOfOtherKinds(t *testing.T) {
	stock := func(ids ...string) proto.Message { return &inventoryv1.GetStockRequest{SweetIds: ids} }
	grams := func(n uint32) proto.Message { return &inventoryv1.ReserveRequest{SweetId: fmt.Sprint(n), Grams: n} }
	for _, test := range []struct {
		method, field string
		one, two      proto.Message
	}{
		{"GetStock", "sweet_ids", stock("a", "b"), stock("b", "a")},
		{"Reserve", "grams", grams(1), grams(2)},
	} {
		t.Run(test.field, func(t *testing.T) {
			p, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{
				test.method: {RateLimits: []*policyv1.RateLimitRule{limit("one", 1, byField(test.field))}},
			}})
			if err != nil {
				t.Fatal(err)
			}
			part := newLimiter(t).UnaryServer(p.Call(interceptors.Server, "/sweetshop.inventory.v1.InventoryService/"+test.method))
			call := func(req proto.Message) bool {
				_, err := part(context.Background(), req, nil, func(context.Context, any) (any, error) { return nil, nil })
				return err == nil
			}
			want(t, "one", call(test.one), true)
			want(t, "one again", call(proto.Clone(test.one)), false)
			want(t, "two", call(test.two), true)
		})
	}
}

// Methods, limits and sides count apart.
func TestMethodsAndLimitsCountApart(t *testing.T) {
	l := newLimiter(t)
	want(t, "one", admitted(t, l, policies(t, limit("one", 1, nil)), context.Background(), nil, 5), 1)
	want(t, "one, made anew", admitted(t, l, policies(t, limit("one", 1, nil)), context.Background(), nil, 5), 0)
	want(t, "two", admitted(t, l, policies(t, limit("two", 1, nil)), context.Background(), nil, 5), 1)
}

// L9, with everything around it: an admitted call by address allocates the context
// with the standings for the handler, and nothing else; on a client nothing.
func TestAdmittedCallAllocatesItsContext(t *testing.T) {
	p := policies(t, limit("a", 1e12, byPeer()), limit("b", 1e12, byIdentity()))
	part := newLimiter(t).UnaryServer(p.Call(interceptors.Server, browse))
	handler := func(context.Context, any) (any, error) { return nil, nil }
	for name, ctx := range map[string]context.Context{
		"an address":    tcp("[2001:db8::1]:1"),
		"a certificate": verified(&x509.Certificate{DNSNames: []string{"shop.example"}}, nil),
		"a SPIFFE id":   verified(&x509.Certificate{}, &url.URL{Scheme: "spiffe", Host: "mesh", Path: "/shop"}),
	} {
		if n := testing.AllocsPerRun(1000, func() { part(ctx, nil, nil, handler) }); n != 1 {
			t.Errorf("an admitted call of %s allocates %v times, want once", name, n)
		}
	}
	rule := limit("a", 1e12, nil)
	rule.Side = policyv1.Side_SIDE_CLIENT
	client := newLimiter(t).UnaryClient(policies(t, rule).Call(interceptors.Client, browse))
	invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
	if n := testing.AllocsPerRun(1000, func() { client(context.Background(), browse, nil, nil, nil, invoker) }); n != 0 {
		t.Errorf("an admitted call of a client allocates %v times", n)
	}
}
