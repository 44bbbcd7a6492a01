package cache_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// blob calls a method that answers with n bytes.
func blob(t testing.TB, c *cache.Cache, cc *grpc.ClientConn) func(ctx context.Context, req *wrapperspb.StringValue, reply *wrapperspb.BytesValue, n int) {
	t.Helper()
	rules, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{
		Ttl: proto.String("1h"), Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC, AllowSideEffects: proto.Bool(true),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	call := c.UnaryClientInterceptor(rules)
	return func(ctx context.Context, req *wrapperspb.StringValue, reply *wrapperspb.BytesValue, n int) {
		err := call(ctx, madeUp, req, reply, cc, func(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			reply.(*wrapperspb.BytesValue).Value = make([]byte, n)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// C13, in part: an entry above 1/8 of the bound is not stored, and the bound holds.
func TestMemoryIsBounded(t *testing.T) {
	const bound = 1 << 20
	c := newCache(t, cache.WithMaxBytes(bound))
	call := blob(t, c, nil)
	call(context.Background(), wrapperspb.String("large"), &wrapperspb.BytesValue{}, bound/8)
	want(t, "stored above an eighth", c.Stats().Stored, 0)
	for i := range 2000 {
		call(context.Background(), wrapperspb.String(fmt.Sprint(i)), &wrapperspb.BytesValue{}, 4096)
	}
	stats := c.Stats()
	want(t, "stored", stats.Stored, 2000)
	if stats.Bytes > bound*11/10 || stats.Entries > bound/4096*11/10 {
		t.Errorf("%+v is above the bound of %d bytes", stats, bound)
	}
}

// One cache may serve several channels: the target is part of the key.
func TestTargetsDoNotShareAnswers(t *testing.T) {
	c := newCache(t)
	var first, again *wrapperspb.BytesValue
	for i, target := range []string{"passthrough:///a", "passthrough:///b", "passthrough:///a"} {
		cc, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		again = &wrapperspb.BytesValue{}
		blob(t, c, cc)(context.Background(), wrapperspb.String("x"), again, i+1)
		if i == 0 {
			first = again
		}
	}
	want(t, "misses", c.Stats().Misses, 2)
	want(t, "length of the answer from the first target", len(again.Value), len(first.Value))
}

// Two servers may answer one method differently.
func TestScopesDoNotShareAnswers(t *testing.T) {
	c := newCache(t)
	meta := policies(t, onServer(public())).Call(interceptors.Server, catalogv1.CatalogService_GetSweet_FullMethodName)
	for _, name := range []string{"a", "b", "a", "b"} {
		answer, err := c.In(name).UnaryServer(meta)(context.Background(), &catalogv1.GetSweetRequest{Id: "fudge"}, &grpc.UnaryServerInfo{},
			func(context.Context, any) (any, error) {
				return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: name}}, nil
			})
		if err != nil {
			t.Fatal(err)
		}
		want(t, "answer", answer.(*catalogv1.GetSweetResponse).GetSweet().GetId(), name)
	}
	want(t, "hits", c.Stats().Hits, 2)
}

// A caller is identified on a server by the names in its verified certificate when nothing
// else is declared, so that its answers survive the renewal of the certificate.
func TestServerIdentifiesCallersByCertificate(t *testing.T) {
	verified := func(leaf *x509.Certificate, id *url.URL) credentials.AuthInfo {
		return credentials.TLSInfo{SPIFFEID: id, State: tls.ConnectionState{
			PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}},
		}}
	}
	leaf := func(raw string, names ...string) *x509.Certificate {
		return &x509.Certificate{Raw: []byte(raw), Subject: pkix.Name{CommonName: "shop"}, DNSNames: names}
	}
	spiffe := &url.URL{Scheme: "spiffe", Host: "mesh", Path: "/shop"}
	unverified := credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf("a")}}}

	c := newCache(t)
	part := c.UnaryServerInterceptor(policies(t, onServer(private())))
	for _, call := range []struct {
		name string
		from credentials.AuthInfo
		want cache.Counts
	}{
		{"a", verified(leaf("a", "a.shop"), nil), cache.Counts{Misses: 1, Stored: 1}},
		{"b", verified(leaf("b", "b.shop"), nil), cache.Counts{Misses: 2, Stored: 2}},
		{"a renewed", verified(leaf("a2", "a.shop"), nil), cache.Counts{Misses: 2, Stored: 2, Hits: 1}},
		{"c, a service of the mesh", verified(leaf("c"), spiffe), cache.Counts{Misses: 3, Stored: 3, Hits: 1}},
		{"d, the same service", verified(leaf("d"), spiffe), cache.Counts{Misses: 3, Stored: 3, Hits: 2}},
		{"not verified", unverified, cache.Counts{Misses: 3, Stored: 3, Hits: 2, Bypassed: 1}},
		{"no certificate", nil, cache.Counts{Misses: 3, Stored: 3, Hits: 2, Bypassed: 2}},
	} {
		ctx := peer.NewContext(context.Background(), &peer.Peer{AuthInfo: call.from})
		_, err := part(ctx, &catalogv1.GetSweetRequest{Id: "fudge"}, &grpc.UnaryServerInfo{FullMethod: getSweet},
			func(context.Context, any) (any, error) { return &catalogv1.GetSweetResponse{}, nil })
		want(t, call.name+": error", err, nil)
		want(t, call.name, c.Stats().Counts, call.want)
	}
}

// The observer receives each result with its method.
func TestObserverReceivesEachResult(t *testing.T) {
	var published []string
	c := newCache(t, callersOf(caller.WithIdentityMetadata("user")),
		cache.WithObserver(interceptors.ObserverFunc(func(_ context.Context, meta *interceptors.CallMeta, e interceptors.Event) {
			published = append(published, meta.Method+" "+e.(cache.Result).String())
		})))
	sweets := client(t, &shop{}, c, private())
	ask(t, as("user", "u"), sweets, "fudge")
	ask(t, as("user", "u"), sweets, "fudge")
	ask(t, context.Background(), sweets, "fudge")
	want(t, "published", strings.Join(published, ", "), "GetSweet miss, GetSweet hit, GetSweet bypass")
}

// X4, in part: a panic in the identity function leaves the cache usable.
func TestPanicInIdentityLeavesTheCacheUsable(t *testing.T) {
	bad := true
	c := newCache(t, callersOf(caller.WithIdentity(func(context.Context) (string, bool) {
		if bad {
			panic("no identity today")
		}
		return "u", true
	})))
	part := c.UnaryServerInterceptor(policies(t, onServer(private())))
	call := func() (panicked any) {
		defer func() { panicked = recover() }()
		_, err := part(metadata.NewIncomingContext(context.Background(), nil), &catalogv1.GetSweetRequest{},
			&grpc.UnaryServerInfo{FullMethod: getSweet},
			func(context.Context, any) (any, error) { return &catalogv1.GetSweetResponse{}, nil })
		want(t, "error", err, nil)
		return nil
	}
	for range 100 {
		want(t, "panic", call(), any("no identity today"))
	}
	bad = false
	call()
	call()
	want(t, "hits", c.Stats().Hits, 1)
}
