package admin_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/admin"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

const (
	secret   = "0123456789abcdef0123456789abcdef"
	operator = "spiffe://a.consul/ns/default/dc/dc1/svc/operator"
)

// everything is a page with all that there is to serve.
func everything(t *testing.T, opts ...admin.Option) http.Handler {
	t.Helper()
	return build(t, append(opts, admin.WithPprof(), admin.WithHosts("web-1.example.com"), admin.WithStats("cache", func() any { return 1 }),
		admin.WithAction("cache/clear", "empty the cache", func(context.Context, url.Values) (any, error) { return nil, nil }))...)
}

// visit asks for path as change has it, from another machine.
func visit(handler http.Handler, path string, change func(*http.Request)) *httptest.ResponseRecorder {
	method := http.MethodGet
	if path == clearPath {
		method = http.MethodPost
	}
	r := between(httptest.NewRequest(method, path, nil), "10.0.0.2", "10.0.0.1")
	r.Header.Set("Meshlite-Action", "cache/clear")
	if change != nil {
		change(r)
	}
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, r)
	return answer
}

func bearer(token string) func(*http.Request) { return set("Authorization", "Bearer "+token) }

// guarded are all paths of the index but those for all, some below them, and some that are
// not there: whatever a later page is, it is among these or fails the first check.
func guarded(t *testing.T, handler http.Handler) []string {
	t.Helper()
	var paths []string
	for line := range strings.Lines(get(handler, http.MethodGet, "/").Body.String()) {
		path, _, _ := strings.Cut(line, "\t")
		paths = append(paths, path)
	}
	open := []string{"/metrics", "/healthz", "/readyz"}
	all := append(slices.Clone(open), "/debug/meshlite", "/debug/pprof/", clearPath)
	if !slices.Equal(slices.Sorted(slices.Values(paths)), slices.Sorted(slices.Values(all))) {
		t.Fatalf("the pages are %q, want %q: decide who may see a new one", paths, all)
	}
	paths = slices.DeleteFunc(paths, func(path string) bool { return slices.Contains(open, path) })
	return append(paths, "/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/debug/meshlite/new", "/new", "//metrics", "/metrics/", "/x/../metrics", "/%6detrics/x")
}

// Case I13: The admin page off loopback answers 401/403 without identity or token to
// everything but /metrics and /healthz.
func TestOthersThanLoopbackNeedATokenOrAnIdentity(t *testing.T) {
	byToken, closed := everything(t, admin.WithToken(secret)), everything(t)
	byIdentity := everything(t, admin.WithIdentities(operator))
	for _, path := range guarded(t, closed) {
		for name, test := range map[string]struct {
			handler http.Handler
			change  func(*http.Request)
			code    int
			body    string
		}{
			"nothing is set":            {closed, nil, 403, "set MESHLITE_ADMIN_TOKEN"},
			"nothing is set, any token": {closed, bearer(secret), 403, "set MESHLITE_ADMIN_TOKEN"},
			"no token":                  {byToken, nil, 401, "Authorization: Bearer TOKEN"},
			"another scheme":            {byToken, set("Authorization", "Basic "+secret), 401, "Authorization: Bearer TOKEN"},
			"no scheme":                 {byToken, set("Authorization", secret), 401, "Authorization: Bearer TOKEN"},
			"wrong token":               {byToken, bearer(strings.Repeat("x", 32)), 403, "wrong token"},
			"empty token":               {byToken, bearer(""), 403, "wrong token"},
			"a part of the token":       {byToken, bearer(secret[:31]), 403, "wrong token"},
			"more than the token":       {byToken, bearer(secret + "0"), 403, "wrong token"},
			"no certificate":            {byIdentity, bearer(secret), 401, "client certificate"},
			"no verified certificate":   {byIdentity, func(r *http.Request) { r.TLS = &tls.ConnectionState{} }, 401, "client certificate"},
		} {
			answer := visit(test.handler, path, test.change)
			if answer.Code != test.code || !strings.Contains(answer.Body.String(), test.body) {
				t.Errorf("%s, %s: %d %q, want %d with %q", path, name, answer.Code, answer.Body, test.code, test.body)
			}
			if challenge := answer.Header().Get("WWW-Authenticate"); (challenge != "") != (test.code == 401) {
				t.Errorf("%s, %s: the challenge is %q", path, name, challenge)
			}
			if strings.Contains(answer.Body.String(), secret) {
				t.Errorf("%s, %s: the answer has the token", path, name)
			}
		}
		for name, answer := range map[string]*httptest.ResponseRecorder{
			"right token": visit(byToken, path, bearer(secret)), "in another case": visit(byToken, path, set("Authorization", "bearer "+secret)),
		} {
			if answer.Code == 401 || answer.Code == 403 {
				t.Errorf("%s, %s: %d %q", path, name, answer.Code, answer.Body)
			}
		}
	}
	for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
		if answer := visit(closed, path, nil); answer.Code != 200 {
			t.Errorf("%s: %d, want it open", path, answer.Code)
		}
	}
}

// A proxy on this machine that leaves no mark looks like loopback, as NGINX does that is set
// up by proxy_pass alone: with a token or identities, loopback needs them as well.
//
// Case I13
func TestASilentProxyOpensNothingBesideAToken(t *testing.T) {
	for name, handler := range map[string]http.Handler{
		"a token": everything(t, admin.WithToken(secret)), "identities": everything(t, admin.WithIdentities(operator)),
		"both, opened": everything(t, admin.WithToken(secret), admin.WithIdentities(operator), admin.WithOpenLoopback()),
	} {
		page := httptest.NewServer(handler)
		t.Cleanup(page.Close)
		to, err := url.Parse(page.URL)
		if err != nil {
			t.Fatal(err)
		}
		proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Header.Del("X-Forwarded-For") }})
		t.Cleanup(proxy.Close)
		want := map[string]int{"a token": 401, "identities": 401, "both, opened": 200}[name]
		for _, path := range []string{"/", "/debug/meshlite", "/debug/pprof/cmdline", "/metrics"} {
			for where, address := range map[string]string{"through the proxy": proxy.URL, "from loopback": page.URL} {
				answer, err := http.Get(address + path)
				if err != nil {
					t.Fatal(err)
				}
				_ = answer.Body.Close()
				if want := map[bool]int{true: 200, false: want}[path == "/metrics"]; answer.StatusCode != want {
					t.Errorf("with %s, %s %s is %d, want %d", name, path, where, answer.StatusCode, want)
				}
			}
		}
		http.DefaultClient.CloseIdleConnections()
	}
}

// What is local is so at both ends, by its Host, and by no mark of a proxy.
//
// Case I13
func TestWhatIsFromLoopback(t *testing.T) {
	handler := everything(t)
	loopback := func(change func(*http.Request)) *http.Request {
		r := fromLoopback(httptest.NewRequest(http.MethodGet, "/debug/meshlite", nil))
		change(r)
		return r
	}
	at := func(address net.Addr) *http.Request {
		r := httptest.NewRequest(http.MethodGet, "/debug/meshlite", nil)
		return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, address))
	}
	host := func(name string) *http.Request { return loopback(func(r *http.Request) { r.Host = name }) }
	tests := map[string]struct {
		request *http.Request
		local   bool
	}{
		"IPv4":             {loopback(func(*http.Request) {}), true},
		"IPv6":             {between(httptest.NewRequest(http.MethodGet, "/debug/meshlite", nil), "::1", "::1"), true},
		"IPv4 in IPv6":     {between(httptest.NewRequest(http.MethodGet, "/debug/meshlite", nil), "::ffff:127.0.0.1", "127.0.0.1"), true},
		"localhost":        {host("LOCALHOST:1"), true},
		"a Unix socket":    {at(&net.UnixAddr{Name: "/run/a", Net: "unix"}), true},
		"from elsewhere":   {between(httptest.NewRequest(http.MethodGet, "/debug/meshlite", nil), "10.0.0.2", "127.0.0.1"), false},
		"to elsewhere":     {between(httptest.NewRequest(http.MethodGet, "/debug/meshlite", nil), "127.0.0.1", "10.0.0.1"), false},
		"its own address":  {between(httptest.NewRequest(http.MethodGet, "/debug/meshlite", nil), "10.0.0.1", "10.0.0.1"), false},
		"no connection":    {httptest.NewRequest(http.MethodGet, "http://127.0.0.1/debug/meshlite", nil), false},
		"no caller":        {loopback(func(r *http.Request) { r.RemoteAddr = "" }), false},
		"another network":  {at(pipeAddr{}), false},
		"an address's":     {host("203.0.113.7"), false},
		"a known name's":   {host("web-1.example.com"), false},
		"a foreign name's": {host("evil.example"), false},
		"HTTP/1.0":         {loopback(func(r *http.Request) { r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.0", 1, 0 }), false},
	}
	for _, key := range []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP", "X-Envoy-External-Address"} {
		tests[key] = struct {
			request *http.Request
			local   bool
		}{loopback(set(key, "")), false}
	}
	for name, test := range tests {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, test.request)
		if want := map[bool]int{true: 200, false: 403}[test.local]; answer.Code != want {
			t.Errorf("%s: %d %q, want %d", name, answer.Code, answer.Body, want)
		}
	}
	sock := at(&net.UnixAddr{Name: "/run/a", Net: "unix"})
	sock.Header.Set("X-Forwarded-For", "10.0.0.2")
	answer := httptest.NewRecorder()
	if handler.ServeHTTP(answer, sock); answer.Code != 403 {
		t.Errorf("a proxy by a Unix socket: %d, want 403", answer.Code)
	}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// A page in a browser is refused with the right token, too.
func TestATokenOpensNoActionToAPage(t *testing.T) {
	handler := everything(t, admin.WithToken(secret))
	for key, value := range map[string]string{"Origin": "http://10.0.0.1:9090", "Sec-Fetch-Site": "same-origin", "Meshlite-Action": ""} {
		answer := visit(handler, clearPath, func(r *http.Request) { bearer(secret)(r); r.Header.Set(key, value) })
		if answer.Code != http.StatusForbidden {
			t.Errorf("%s: %d %q, want 403", key, answer.Code, answer.Body)
		}
	}
	rebound := visit(handler, "/debug/meshlite", func(r *http.Request) { bearer(secret)(r); r.Host = "evil.example" })
	if rebound.Code != http.StatusForbidden {
		t.Errorf("a foreign name: %d, want 403", rebound.Code)
	}
}

// A token rotates in its file: both are valid while both are in it, and none while the file
// cannot be read.
func TestATokenFileRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	next := strings.Repeat("n", 32)
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(secret + "\n")
	handler := everything(t, admin.WithTokenFile(path))
	for _, step := range []struct {
		text     string
		old, new int
	}{{secret + "\n", 200, 403}, {next + "\n" + secret + "\n", 200, 200}, {next, 403, 200}, {"", 403, 403}, {"short", 403, 403}, {next, 403, 200}} {
		put(step.text)
		for token, want := range map[string]int{secret: step.old, next: step.new} {
			if answer := visit(handler, "/debug/meshlite", bearer(token)); answer.Code != want || strings.Contains(answer.Body.String(), path) {
				t.Errorf("%q is %d %q while the file has %q, want %d", token, answer.Code, answer.Body, step.text, want)
			}
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if answer := visit(handler, "/debug/meshlite", bearer(next)); answer.Code != 403 {
		t.Errorf("%d without the file, want 403", answer.Code)
	}
}

func TestTokensAreChecked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("hunter2-hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, opt := range map[string]admin.Option{
		"MESHLITE_ADMIN_TOKEN) has 0 bytes: 32 are the least":                          admin.WithToken(""),
		"MESHLITE_ADMIN_TOKEN) has 31 bytes":                                           admin.WithToken(secret[1:]),
		"MESHLITE_ADMIN_TOKEN) has a space":                                            admin.WithToken(secret + " x"),
		"token 1 has 15 bytes: 32 are the least":                                       admin.WithTokenFile(path),
		`"/missing/token": no such file`:                                               admin.WithTokenFile("/missing/token"),
		`"operator" (WithIdentities, MESHLITE_ADMIN_IDENTITIES): write a SPIFFE id`:    admin.WithIdentities("operator"),
		`"CN=operator" (WithIdentities, MESHLITE_ADMIN_IDENTITIES): write a SPIFFE id`: admin.WithIdentities(operator, "CN=operator"),
		`"spiffe://" (WithIdentities, MESHLITE_ADMIN_IDENTITIES): write a SPIFFE`:      admin.WithIdentities("spiffe://"),
		`"spiffe://a.consul" (WithIdentities, MESHLITE_ADMIN_IDENTITIES): write a`:     admin.WithIdentities("spiffe://a.consul"),
		`"spiffe://*/svc/x" (WithIdentities, MESHLITE_ADMIN_IDENTITIES): write a`:      admin.WithIdentities("spiffe://*/svc/x"), // it would match nobody
		`MESHLITE_ADMIN_TOKEN_FILE) "": no such file`:                                  admin.WithTokenFile(""),
	} {
		_, err := admin.New(opt)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), secret[1:]) {
			t.Errorf("%v, want an error with %q and no token", err, want)
		}
	}
}

// By real mTLS: the operator's certificate opens the page, another of the same authority
// does not, and one of another authority reaches nothing.
//
// Case I13
func TestAnIdentityOpensThePage(t *testing.T) {
	authority, other := certtest.New(t), certtest.New(t)
	server := httptest.NewUnstartedServer(everything(t, admin.WithIdentities(operator)))
	// What comes by a name of a proxy is not local.
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{authority.Issue(t, "web-1.example.com")}, ClientCAs: authority.Roots, ClientAuth: tls.VerifyClientCertIfGiven}
	server.StartTLS()
	defer server.Close()
	for name, test := range map[string]struct {
		certificates []tls.Certificate
		code         int // 0: no answer
	}{
		"operator":        {[]tls.Certificate{authority.IssueID(t, time.Hour, operator)}, 200},
		"another service": {[]tls.Certificate{authority.IssueID(t, time.Hour, "spiffe://a.consul/ns/default/dc/dc1/svc/web")}, 403},
		"two ids":         {[]tls.Certificate{authority.IssueID(t, time.Hour, operator, "spiffe://a.consul/ns/default/dc/dc1/svc/web")}, 403},
		"a common name":   {[]tls.Certificate{authority.Issue(t, operator)}, 403},
		"none":            {nil, 401},
		"foreign":         {[]tls.Certificate{other.IssueID(t, time.Hour, operator)}, 0},
		"expired":         {[]tls.Certificate{authority.IssueID(t, -time.Minute, operator)}, 0},
	} {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			RootCAs: authority.Roots, ServerName: "web-1.example.com",
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(test.certificates) == 0 {
					return new(tls.Certificate), nil
				}
				return &test.certificates[0], nil
			},
		}}}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/debug/meshlite", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = "web-1.example.com"
		code := 0
		if answer, err := client.Do(request); err == nil {
			code = answer.StatusCode
			_ = answer.Body.Close()
		}
		if code != test.code {
			t.Errorf("%s: %d, want %d", name, code, test.code)
		}
	}
}
