package caller_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/caller"
)

// A trusted gateway says for whom it calls; everybody else is who they are.
func TestForwardedSubjects(t *testing.T) {
	forwarded := caller.WithForwardedSubject()
	gateways := caller.WithTrustedPrefixes(netip.MustParsePrefix("10.0.0.0/8"))
	gatewayID := &url.URL{Scheme: "spiffe", Host: "mesh", Path: "/gateway"}
	byID := caller.WithTrusted(func(ctx context.Context) bool { id, _ := caller.Verified(ctx); return id == gatewayID.String() })
	byKey := caller.WithIdentityMetadata("id")
	byFunction := caller.WithIdentity(func(context.Context) (string, bool) { return "f", true })
	leaf := &x509.Certificate{}
	with := func(ctx context.Context, pairs ...string) context.Context {
		return metadata.NewIncomingContext(ctx, metadata.Pairs(pairs...))
	}
	gateway, stranger := from("10.0.0.7:1"), from("192.0.2.1:1")
	service := shown(leaf, &url.URL{Scheme: "spiffe", Host: "mesh", Path: "/billing"}, true)
	for name, test := range map[string]struct {
		callers *caller.Callers
		ctx     context.Context
		want    string
	}{
		"from a gateway":                         {made(t, forwarded, gateways), with(gateway, caller.SubjectKey, "alice"), "alice"},
		"from a gateway's certificate":           {made(t, forwarded, byID), with(shown(leaf, gatewayID, true), caller.SubjectKey, "alice"), "alice"},
		"a gateway for nobody is not itself":     {made(t, forwarded, byID), shown(leaf, gatewayID, true), ""},
		"a gateway with an empty one":            {made(t, forwarded, byID), with(shown(leaf, gatewayID, true), caller.SubjectKey, ""), ""},
		"a gateway for nobody, other key":        {made(t, forwarded, gateways, byKey), with(gateway, "id", "bob"), ""},
		"a gateway for nobody, function":         {made(t, forwarded, gateways, byFunction), gateway, ""},
		"a gateway's, certificate not verified":  {made(t, forwarded, byID), with(shown(leaf, gatewayID, false), caller.SubjectKey, "alice"), ""},
		"from a stranger":                        {made(t, forwarded, gateways), with(stranger, caller.SubjectKey, "alice"), ""},
		"from a service":                         {made(t, forwarded, byID), with(service, caller.SubjectKey, "alice"), "spiffe://mesh/billing"},
		"from a stranger, key":                   {made(t, forwarded, gateways, byKey), with(stranger, caller.SubjectKey, "alice", "id", "bob"), "bob"},
		"from a stranger, function":              {made(t, forwarded, gateways, byFunction), with(stranger, caller.SubjectKey, "alice"), "f"},
		"nobody is trusted":                      {made(t, forwarded), with(gateway, caller.SubjectKey, "alice"), ""},
		"not declared":                           {made(t, gateways), with(gateway, caller.SubjectKey, "alice"), ""},
		"a stranger's two are no reason to fail": {made(t, forwarded, gateways), with(stranger, caller.SubjectKey, "alice", caller.SubjectKey, "bob"), ""},
	} {
		if got, err := test.callers.Incoming(test.ctx); got != test.want || err != nil {
			t.Errorf("%s: %q, %v, want %q", name, got, err, test.want)
		}
	}
	for name, values := range map[string][]string{"two": {"alice", "bob"}, "twice": {"alice", "alice"}, "long": {strings.Repeat("a", 8193)}} {
		callers := made(t, forwarded, gateways)
		_, in := callers.Incoming(metadata.NewIncomingContext(gateway, metadata.MD{caller.SubjectKey: values}))
		_, out := callers.Outgoing(metadata.NewOutgoingContext(context.Background(), metadata.MD{caller.SubjectKey: values}))
		for _, err := range []error{in, out} {
			if status.Code(err) != codes.InvalidArgument || strings.Contains(err.Error(), "alice") {
				t.Errorf("%s: %v, want INVALID_ARGUMENT that names no value", name, err)
			}
		}
	}
}

// A gateway's channel calls on behalf of the outgoing subject and nobody else.
func TestForwardedSubjectsOfAClient(t *testing.T) {
	alice := metadata.AppendToOutgoingContext(from("10.0.0.7:1"), caller.SubjectKey, "alice", "id", "bob")
	nobody := metadata.AppendToOutgoingContext(from("10.0.0.7:1"), "id", "bob")
	incoming := metadata.NewIncomingContext(from("10.0.0.7:1"), metadata.Pairs(caller.SubjectKey, "alice"))
	for _, opts := range [][]caller.Option{
		{caller.WithForwardedSubject()},
		{caller.WithForwardedSubject(), caller.WithIdentityMetadata("id")},
		{caller.WithForwardedSubject(), caller.WithIdentity(func(context.Context) (string, bool) { return "f", true })},
	} {
		callers := made(t, opts...)
		if !callers.Declares() {
			t.Errorf("%v declares nothing", callers.Source())
		}
		for ctx, want := range map[context.Context]string{alice: "alice", nobody: "", incoming: ""} {
			if got, err := callers.Outgoing(ctx); got != want || err != nil {
				t.Errorf("%s: %q, %v, want %q", callers.Source(), got, err, want)
			}
		}
	}
}

// A client may count calls by "metadata KEY", so that is said only where KEY alone decides.
func TestTheSourceOfForwardedSubjects(t *testing.T) {
	forwarded := caller.WithForwardedSubject()
	for want, callers := range map[string]*caller.Callers{
		"metadata x-meshlite-subject":      made(t, forwarded),
		"forwarded subject or metadata id": made(t, forwarded, caller.WithIdentityMetadata("id")),
		"function":                         made(t, forwarded, caller.WithIdentity(func(context.Context) (string, bool) { return "f", true })),
		"metadata id":                      made(t, caller.WithIdentityMetadata("id")),
		"certificate":                      made(t),
	} {
		if got := callers.Source(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A certificate proves the same over HTTP as over gRPC.
func TestACertificateProvesTheSameOverHTTP(t *testing.T) {
	long := "spiffe://mesh/" + strings.Repeat("a", 2048)
	for _, test := range []struct {
		uris   []string
		spiffe bool
	}{
		{nil, false},
		{[]string{"spiffe://mesh/a"}, true},
		{[]string{"spiffe://mesh/a", "spiffe://mesh/b"}, false},
		{[]string{"spiffe://mesh/a", "https://mesh/a"}, false},
		{[]string{"https://mesh/a"}, false},
		{[]string{"spiffe:mesh"}, false},
		{[]string{"spiffe://eve@mesh/a"}, false},
		{[]string{"spiffe://mesh"}, false},
		{[]string{"spiffe:///a"}, false},
		{[]string{long}, false},
		{[]string{"spiffe://" + strings.Repeat("m", 256) + "/a"}, false},
	} {
		leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "a"}, DNSNames: []string{"a"}}
		for _, text := range test.uris {
			uri, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			leaf.URIs = append(leaf.URIs, uri)
		}
		state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
		if got, ok := caller.VerifiedTLS(&state); got != "" || ok {
			t.Errorf("not verified: %q", got)
		}
		state.VerifiedChains = [][]*x509.Certificate{{leaf}}
		info := credentials.TLSInfo{State: state}
		if test.spiffe {
			info.SPIFFEID = leaf.URIs[0]
		}
		want, _ := caller.Verified(peer.NewContext(context.Background(), &peer.Peer{AuthInfo: info}))
		if got, ok := caller.VerifiedTLS(&state); got != want || !ok {
			t.Errorf("%v: %q, want %q", test.uris, got, want)
		}
	}
	if got, ok := caller.VerifiedTLS(nil); got != "" || ok {
		t.Errorf("without TLS: %q", got)
	}
}
