package edge_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/gateway/edge"
)

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// verifier takes a token for its subject.
type verifier struct{}

type unavailable struct{ error }

func (unavailable) Temporary() bool { return true }

func (verifier) Verify(_ context.Context, token string) (string, error) {
	switch token {
	case "wrong":
		return "", errors.New("the token has expired")
	case "away":
		return "", unavailable{errors.New("no keys yet")}
	case "nobody":
		return "", nil
	default:
		return token, nil
	}
}

// certified is a request over TLS with a client certificate, verified or not.
func certified(r *http.Request, verified bool) *http.Request {
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "phone"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "mesh", Path: "/phone"}}}
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	if verified {
		r.TLS.VerifiedChains = [][]*x509.Certificate{{leaf}}
	}
	return r
}

// The subject is that of the token, or else of the client certificate; a token that is not
// valid is 401, also where none is required.
func TestWhoTheCallerIs(t *testing.T) {
	plain := func(pairs ...string) *http.Request { return request("GET", "/", "192.0.2.1:1", pairs...) }
	proxied := func() *http.Request { return certified(request("GET", "/", "10.0.0.1:1"), true) }
	for name, test := range map[string]struct {
		request   *http.Request
		code      int
		subject   string
		challenge string
	}{
		"nobody":                   {plain(), 200, "", ""},
		"token":                    {plain("Authorization", "Bearer alice"), 200, "alice", ""},
		"token, lower case":        {plain("Authorization", "bearer  alice "), 200, "alice", ""},
		"another scheme":           {plain("Authorization", "Basic YTpi"), 200, "", ""},
		"wrong":                    {plain("Authorization", "Bearer wrong"), 401, "", `Bearer error="invalid_token"`},
		"empty subject":            {plain("Authorization", "Bearer nobody"), 401, "", `Bearer error="invalid_token"`},
		"too long":                 {plain("Authorization", "Bearer "+strings.Repeat("a", 8193)), 401, "", `Bearer error="invalid_token"`},
		"too long a subject":       {plain("Authorization", "Bearer "+strings.Repeat("a", 1025)), 401, "", `Bearer error="invalid_token"`},
		"two":                      {plain("Authorization", "Bearer alice", "Authorization", "Bearer bob"), 401, "", `Bearer error="invalid_request"`},
		"passes for a service":     {plain("Authorization", "Bearer spiffe://mesh/billing"), 401, "", `Bearer error="invalid_token"`},
		"passes for a name":        {plain("Authorization", `Bearer subject "CN=a" names ["a"]`), 401, "", `Bearer error="invalid_token"`},
		"keys away":                {plain("Authorization", "Bearer away"), 503, "", ""},
		"certificate":              {certified(plain(), true), 200, "spiffe://mesh/phone", ""},
		"certificate, unverified":  {certified(plain(), false), 200, "", ""},
		"certificate and token":    {certified(plain("Authorization", "Bearer alice"), true), 200, "alice", ""},
		"certificate, wrong token": {certified(plain("Authorization", "Bearer wrong"), true), 401, "", `Bearer error="invalid_token"`},
		"a proxy's certificate":    {proxied(), 200, "", ""},
	} {
		e := newEdge(t, edge.Config{Verifier: verifier{}, TrustedProxies: trusted})
		called, subject := false, ""
		w := do(e.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			called, subject = true, edge.CallerOf(r.Context()).Subject
		})), test.request)
		if w.Code != test.code || subject != test.subject || called != (test.code == 200) || w.Header().Get("WWW-Authenticate") != test.challenge {
			t.Errorf("%s: %d %q, %q", name, w.Code, subject, w.Header().Get("WWW-Authenticate"))
		}
		if w.Code == 200 {
			continue
		}
		if p := problemOf(t, w); strings.Contains(p.Detail, "aaaa") || p.Code != map[int]string{401: "UNAUTHENTICATED", 503: "UNAVAILABLE"}[w.Code] {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// Where a subject is required, nobody is 401 but on public paths and in preflights; where no
// token is read, it is no business of the edge.
func TestARequiredSubject(t *testing.T) {
	required := newEdge(t, edge.Config{Verifier: verifier{}, RequireSubject: true, Public: []string{"/openapi.json", "/docs/"}, CORS: edge.CORS{Origins: []string{"https://shop.example"}}}).Handler(hello)
	for _, test := range []struct {
		request *http.Request
		want    int
	}{
		{request("GET", "/", ""), 401},
		{request("GET", "/", "", "Authorization", "Bearer alice"), 200},
		{certified(request("GET", "/", ""), true), 200},
		{request("GET", "/openapi.json", ""), 200},
		{request("GET", "/docs/x", ""), 200},
		{request("GET", "/openapi.json/x", ""), 401},
		{request("GET", "/docs/", "", "Authorization", "Bearer wrong"), 401},
		{request("OPTIONS", "/", "", "Origin", "https://shop.example", "Access-Control-Request-Method", "GET"), 204},
	} {
		w := do(required, test.request)
		want(t, test.request.Method+" "+test.request.URL.Path, w.Code, test.want)
		if test.want == 401 && !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("no challenge: %v", w.Header())
		}
	}
	w := do(newEdge(t, edge.Config{}).Handler(hello), request("GET", "/", "", "Authorization", "Bearer wrong"))
	want(t, "without a verifier", w.Code, 200)
}
