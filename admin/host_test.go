package admin_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"

	"github.com/meshlite-go/meshlite/admin"
)

// A name that was bound to this address is whoever's has bound it (DNS rebinding): it
// opens no page and no action, whatever it is followed by. Metrics and health are for all.
//
// Case admin: A foreign host opens no page but metrics and health (DNS rebinding); alive is
// not ready; a server's page lists its registrations; health answers for all names.
func TestPagesWantAHostThatIsOurs(t *testing.T) {
	handler := build(t, admin.WithPprof(), admin.WithToken(secret), admin.WithHosts("Web-1.example.com"), admin.WithStats("cache", func() any { return 1 }),
		admin.WithAction("cache/clear", "empty the cache", func(context.Context, url.Values) (any, error) { return nil, nil }))
	server := admin.Serve(listen(t), handler)
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(host, method, path string) int {
		r, err := http.NewRequest(method, "http://"+server.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Meshlite-Action", "cache/clear")
		r.Header.Set("Authorization", "Bearer "+secret) // a name that is not of loopback may be a proxy's
		r.Host = host
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	for host, ours := range map[string]bool{
		"":                       true, // that of the address
		"localhost":              true,
		"LOCALHOST:9090":         true,
		"localhost.":             true,
		"127.0.0.1":              true,
		"10.0.0.1:9090":          true,
		"[::1]:9090":             true,
		"[::1]":                  true,
		"web-1.example.com:9090": true,
		"WEB-1.example.com.":     true,
		"web-2.example.com":      false,
		"evil.example":           false,
		"evil.example:9090":      false,
		"127.0.0.1.nip.io":       false,
		"localhost.evil:9090":    false,
		"0x7f000001":             false,
	} {
		for _, path := range []string{"/", "/debug/meshlite", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=1", clearPath} {
			method, want := http.MethodGet, http.StatusOK
			if path == clearPath {
				method = http.MethodPost
			}
			if !ours {
				want = http.StatusForbidden
			}
			if code := ask(host, method, path); code != want {
				t.Errorf("host %q: %s is %d, want %d", host, path, code, want)
			}
		}
		for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
			if code := ask(host, http.MethodGet, path); code != http.StatusOK {
				t.Errorf("host %q: %s is %d, want 200", host, path, code)
			}
		}
	}
	if code := ask("evil.example", http.MethodGet, "//debug/meshlite"); code != http.StatusForbidden {
		t.Errorf("another way to write a path is %d, want 403", code)
	}
}
