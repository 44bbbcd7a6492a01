package caller_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/caller"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A caller is who its gateway says, and trusted if it comes from the gateway's network.
func Example() {
	callers, err := caller.New(
		caller.WithIdentityMetadata("customer-id"),
		caller.WithTrustedPrefixes(netip.MustParsePrefix("10.0.0.0/8")))
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := metadata.NewIncomingContext(from("10.0.0.7:4711"), metadata.Pairs("customer-id", "alice", "x-forwarded-for", "192.0.2.1"))
	identity, err := callers.Incoming(ctx)
	fmt.Println(identity, err)
	fmt.Println(callers.Address(ctx))
	fmt.Println(callers.Trusted(ctx))
	// Output:
	// alice <nil>
	// 192.0.2.1 true
	// true
}

func from(address string) context.Context {
	return peer.NewContext(context.Background(), &peer.Peer{Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))})
}

// shown is a call of a peer with a certificate, verified or not.
func shown(leaf *x509.Certificate, spiffe *url.URL, verified bool) context.Context {
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	if verified {
		state.VerifiedChains = [][]*x509.Certificate{{leaf}}
	}
	return peer.NewContext(context.Background(), &peer.Peer{Addr: &net.TCPAddr{}, AuthInfo: credentials.TLSInfo{State: state, SPIFFEID: spiffe}})
}

func made(t *testing.T, opts ...caller.Option) *caller.Callers {
	t.Helper()
	callers, err := caller.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return callers
}

// Who calls is what is declared, else what the certificate proves; a renewed certificate is
// the same caller, and no name passes for another.
func TestIdentities(t *testing.T) {
	byFunction := caller.WithIdentity(func(ctx context.Context) (string, bool) { return "f", ctx.Value(t) != nil })
	byKey := caller.WithIdentityMetadata("id")
	spiffe := &url.URL{Scheme: "spiffe", Host: "mesh", Path: "/catalog"}
	leaf := &x509.Certificate{Raw: []byte("1"), Subject: pkix.Name{CommonName: "catalog"}, DNSNames: []string{"a", "b"}}
	renewed := &x509.Certificate{Raw: []byte("2"), Subject: leaf.Subject, DNSNames: leaf.DNSNames}
	sly := &x509.Certificate{Raw: []byte("3"), Subject: pkix.Name{CommonName: `catalog" names ["a" "b"]`}}
	incoming := func(pairs ...string) context.Context {
		return metadata.NewIncomingContext(context.Background(), metadata.Pairs(pairs...))
	}
	proven, _ := caller.Verified(shown(leaf, nil, true))
	for name, test := range map[string]struct {
		callers *caller.Callers
		ctx     context.Context
		want    string
	}{
		"function":                 {made(t, byFunction), context.WithValue(context.Background(), t, 1), "f"},
		"function without answer":  {made(t, byFunction), shown(leaf, spiffe, true), ""},
		"metadata":                 {made(t, byKey), incoming("id", "alice"), "alice"},
		"metadata in another case": {made(t, byKey), metadata.NewIncomingContext(context.Background(), metadata.MD{"Id": {"alice"}}), "alice"},
		"metadata, absent":         {made(t, byKey), shown(leaf, spiffe, true), ""},
		"metadata, empty":          {made(t, byKey), incoming("id", ""), ""},
		"SPIFFE":                   {nil, shown(leaf, spiffe, true), "spiffe://mesh/catalog"},
		"renewed":                  {nil, shown(renewed, nil, true), proven},
		"SPIFFE, with options":     {made(t), shown(leaf, spiffe, true), "spiffe://mesh/catalog"},
		"zero":                     {&caller.Callers{}, shown(leaf, spiffe, true), "spiffe://mesh/catalog"},
		"names, with options":      {made(t), shown(renewed, nil, true), proven},
		"not verified, options":    {made(t), shown(leaf, spiffe, false), ""},
		"not verified":             {nil, shown(leaf, spiffe, false), ""},
		"plaintext":                {nil, from("192.0.2.1:1"), ""},
		"nobody":                   {nil, context.Background(), ""},
	} {
		if got, err := test.callers.Incoming(test.ctx); got != test.want || err != nil {
			t.Errorf("%s: %q, %v, want %q", name, got, err, test.want)
		}
	}
	if got, _ := caller.Verified(shown(sly, nil, true)); got == proven || strings.HasPrefix(proven, "spiffe:") || proven == "" {
		t.Errorf("%q passes for %q", got, proven)
	}
}

// The identity of a certificate is written out once, and never taken for that of another.
func TestIdentitiesOfCertificatesAreKept(t *testing.T) {
	callers, calls, want := made(t), []context.Context{}, []string{}
	for i := range 1000 { // more than are kept
		leaf := &x509.Certificate{Subject: pkix.Name{CommonName: fmt.Sprint(i)}}
		id := &url.URL{Scheme: "spiffe", Host: "mesh", Path: fmt.Sprint("/", i)}
		calls = append(calls, shown(leaf, nil, true), shown(leaf, id, true))
		want = append(want, fmt.Sprintf(`subject "CN=%d" names []`, i), id.String())
	}
	for range 2 {
		for i, ctx := range calls {
			if got, err := callers.Incoming(ctx); got != want[i] || err != nil {
				t.Fatalf("%q, %v, want %q", got, err, want[i])
			}
		}
	}
	last := calls[len(calls)-2]
	_, _ = callers.Incoming(last)
	if n := testing.AllocsPerRun(1000, func() { _, _ = callers.Incoming(last) }); n != 0 {
		t.Errorf("the identity of a certificate allocates %v times in each call", n)
	}
}

// A client has the identity that is declared, never that of a peer.
func TestIdentitiesOfAClient(t *testing.T) {
	out := metadata.AppendToOutgoingContext(from("192.0.2.1:1"), "id", "alice")
	for _, test := range []struct {
		callers *caller.Callers
		want    string
	}{
		{made(t, caller.WithIdentityMetadata("id")), "alice"},
		{made(t, caller.WithIdentityMetadata("other")), ""},
		{made(t), ""},
		{nil, ""},
	} {
		if got, err := test.callers.Outgoing(out); got != test.want || err != nil {
			t.Errorf("%v: %q, %v, want %q", test.callers.Source(), got, err, test.want)
		}
	}
}

// L16: A key from metadata means the same as what a handler reads, or the call is refused.
func TestAnAmbiguousIdentityIsRefused(t *testing.T) {
	callers := made(t, caller.WithIdentityMetadata("id"))
	for name, values := range map[string][]string{"two": {"alice", "bob"}, "twice": {"alice", "alice"}, "long": {strings.Repeat("a", 8193)}} {
		_, in := callers.Incoming(metadata.NewIncomingContext(context.Background(), metadata.MD{"id": values}))
		_, out := callers.Outgoing(metadata.NewOutgoingContext(context.Background(), metadata.MD{"id": values}))
		for _, err := range []error{in, out} {
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `"id"`) || strings.Contains(err.Error(), "alice") {
				t.Errorf("%s: %v, want INVALID_ARGUMENT that names the key and no value", name, err)
			}
		}
	}
	if value, err := caller.Value([]string{strings.Repeat("a", 8192)}, "id"); len(value) != 8192 || err != nil {
		t.Errorf("%d bytes, %v", len(value), err)
	}
}

// A log has what certificates prove, and a hash of what may be a secret: always the same
// one, and another for another caller.
func TestLogNames(t *testing.T) {
	key, function := caller.WithIdentityMetadata("id"), caller.WithIdentity(func(context.Context) (string, bool) { return "alice", true })
	incoming := func(pairs ...string) context.Context {
		return metadata.NewIncomingContext(context.Background(), metadata.Pairs(pairs...))
	}
	spiffe := shown(&x509.Certificate{}, &url.URL{Scheme: "spiffe", Host: "mesh", Path: "/catalog"}, true)
	for name, test := range map[string]struct {
		callers *caller.Callers
		ctx     context.Context
		want    string // before the hash
		hashed  bool
	}{
		"certificate":          {made(t), spiffe, "spiffe://mesh/catalog", false},
		"nil":                  {nil, spiffe, "spiffe://mesh/catalog", false},
		"nobody":               {nil, context.Background(), "", false},
		"metadata":             {made(t, key), incoming("id", "alice"), "metadata id #", true},
		"function":             {made(t, function), context.Background(), "function #", true},
		"metadata, no secret":  {made(t, key, caller.WithLoggedIdentity()), incoming("id", "alice"), "alice", false},
		"metadata, absent":     {made(t, key), spiffe, "", false},
		"metadata, ambiguous":  {made(t, key), incoming("id", "alice", "id", "bob"), "", false},
		"certificate, logging": {made(t, caller.WithLoggedIdentity()), spiffe, "spiffe://mesh/catalog", false},
	} {
		got := test.callers.LogName(test.ctx)
		hash, ok := strings.CutPrefix(got, test.want)
		if !ok || test.hashed != (len(hash) == 8) || !test.hashed && got != test.want || got != test.callers.LogName(test.ctx) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	callers := made(t, key)
	if alice, bob := callers.LogName(incoming("id", "alice")), callers.LogName(incoming("id", "bob")); alice == bob {
		t.Errorf("alice and bob are both %q", alice)
	}
}

// L12: What a caller says of itself counts only if it is trusted.
func TestTrust(t *testing.T) {
	network := caller.WithTrustedPrefixes(netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"))
	spoofed := metadata.NewIncomingContext(from("192.0.2.1:1"), metadata.Pairs("x-forwarded-for", "10.0.0.1"))
	byFunction := caller.WithTrusted(func(ctx context.Context) bool { _, ok := caller.Verified(ctx); return ok })
	verified := shown(&x509.Certificate{}, nil, true)
	for name, test := range map[string]struct {
		callers *caller.Callers
		ctx     context.Context
		want    bool
	}{
		"nobody by default":          {made(t), from("127.0.0.1:1"), false},
		"nil":                        {nil, from("127.0.0.1:1"), false},
		"in the network":             {made(t, network), from("10.1.2.3:1"), true},
		"in the network, mapped":     {made(t, network), from("[::ffff:10.1.2.3]:1"), true},
		"in the network, IPv6":       {made(t, network), from("[fd00::1]:1"), true},
		"outside":                    {made(t, network), from("192.0.2.1:1"), false},
		"outside, says it is inside": {made(t, network), spoofed, false},
		"no peer":                    {made(t, network), context.Background(), false},
		"function":                   {made(t, byFunction), verified, true},
		"function says no":           {made(t, byFunction), from("10.1.2.3:1"), false},
		"either":                     {made(t, network, byFunction), from("10.1.2.3:1"), true},
	} {
		if got := test.callers.Trusted(test.ctx); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// Wrong options are refused by name.
func TestMistakes(t *testing.T) {
	for want, opts := range map[string][]caller.Option{
		"choose one":               {caller.WithIdentityMetadata("id"), caller.WithIdentity(func(context.Context) (string, bool) { return "", false })},
		`"Customer-ID" is not`:     {caller.WithIdentityMetadata("Customer-ID")},
		`"" is not`:                {caller.WithIdentityMetadata("")},
		"use WithForwardedSubject": {caller.WithIdentityMetadata(caller.SubjectKey)},
		"WithIdentity(nil)":        {caller.WithIdentity(nil)},
		"WithTrusted(nil)":         {caller.WithTrusted(nil)},
		"WithTrustedPrefixes: ":    {caller.WithTrustedPrefixes(netip.Prefix{})},
		"::ffff:10.0.0.0/104 is":   {caller.WithTrustedPrefixes(netip.MustParsePrefix("::ffff:10.0.0.0/104"))},
	} {
		if callers, err := caller.New(opts...); err == nil || callers != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}

// A gateway is trusted for the SPIFFE id that its certificate proves: all of it, in its
// verified trust domain or that of the option, and nothing that looks like it.
//
// Case L12 (by certificate): A subject counts only from peers whose certificate is that of a trusted gateway.
func TestTrustByIdentity(t *testing.T) {
	const exact, any = "spiffe://mesh/ns/default/dc/dc1/svc/gateway", "spiffe://*/ns/default/dc/dc1/svc/gateway"
	id := func(host, path string) *url.URL { return &url.URL{Scheme: "spiffe", Host: host, Path: path} }
	const gateway = "/ns/default/dc/dc1/svc/gateway"
	leaf := &x509.Certificate{Raw: []byte("1")}
	named := &x509.Certificate{Raw: []byte("2"), DNSNames: []string{exact}, Subject: pkix.Name{CommonName: exact}}
	for name, test := range map[string]struct {
		option string
		ctx    context.Context
		want   bool
	}{
		"the gateway":                  {exact, shown(leaf, id("mesh", gateway), true), true},
		"of another domain":            {exact, shown(leaf, id("other", gateway), true), false},
		"of any verified domain":       {any, shown(leaf, id("other", gateway), true), true},
		"not verified":                 {any, shown(leaf, id("mesh", gateway), false), false},
		"another service":              {any, shown(leaf, id("mesh", gateway+"2"), true), false},
		"below it":                     {any, shown(leaf, id("mesh", gateway+"/x"), true), false},
		"a name that says so":          {exact, shown(named, nil, true), false},
		"a name that says so, any":     {any, shown(named, nil, true), false},
		"plaintext":                    {any, from("10.0.0.7:1"), false},
		"plaintext that sends the key": {any, metadata.NewIncomingContext(from("10.0.0.7:1"), metadata.Pairs(caller.SubjectKey, exact)), false},
	} {
		callers := made(t, caller.WithForwardedSubject(), caller.WithTrustedIdentities("spiffe://mesh/ns/default/dc/dc1/svc/other", test.option))
		if got := callers.Trusted(test.ctx); got != test.want {
			t.Errorf("%s: trusted %v, want %v", name, got, test.want)
		}
		alice := metadata.NewIncomingContext(test.ctx, metadata.Pairs(caller.SubjectKey, "alice"))
		if got, err := callers.Incoming(alice); (got == "alice") != test.want || err != nil {
			t.Errorf("%s: called for %q, %v", name, got, err)
		}
	}
	for _, wrong := range []string{"", "gateway", "spiffe://", "spiffe://mesh", "spiffe:///svc/gateway", "spiffe://*/", "spiffe://*/ns/*/svc/gateway", "spiffe://m*/svc/gateway", "https://mesh/svc/gateway"} {
		if _, err := caller.New(caller.WithTrustedIdentities(wrong)); err == nil || !strings.Contains(err.Error(), "WithTrustedIdentities") {
			t.Errorf("%q: %v, want an error that names the option", wrong, err)
		}
	}
}
