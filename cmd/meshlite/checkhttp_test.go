package main

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// A gateway that is registered is well: it is asked over HTTP, and needs no health of gRPC.
func TestCheckOfAGateway(t *testing.T) {
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	cert, key, _ := selfSigned(t)
	for name, args := range map[string][]string{"http": nil, "https": {"--tls-cert", cert, "--tls-key", key}} {
		t.Run(name, func(t *testing.T) {
			openAgent(t)
			openGateway(t, append(args, "--http", "web=/,"+web.URL, "--register", "--metrics-address", "")...)
			r := runTool(t, "check", "gateway")
			r.want(t, 0, "0 warnings, 0 failed", "")
			if !strings.Contains(r.out, "ready in ") || strings.Contains(r.out, "gRPC") {
				t.Errorf("stdout %s, want a gateway that is ready, and nothing of gRPC", r.out)
			}
		})
	}
}

func TestCheckOfHTTPServices(t *testing.T) {
	answer := func(status int) string {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte("the cellar is flooded\x1b[31m" + strings.Repeat("x", 1000)))
		}))
		t.Cleanup(web.Close)
		return web.Listener.Addr().String()
	}
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.TLS = &tls.Config{}
	secure.StartTLS()
	defer secure.Close()
	for name, test := range map[string]struct {
		scheme, address, status string
		code                    int
		out                     []string
	}{
		"ready":          {"http", answer(200), "passing", 0, []string{"✓ x-1", "ready in "}},
		"no readyz":      {"http", answer(404), "passing", 0, []string{"✓ x-1", "answers HTTP, and /readyz with 404"}},
		"redirects":      {"http", answer(302), "passing", 0, []string{"✓ x-1", "with 302"}},
		"over TLS":       {"https", secure.Listener.Addr().String(), "passing", 0, []string{"✓ x-1", "with 404"}},
		"not over TLS":   {"https", answer(200), "passing", 1, []string{"✗ x-1", "does not answer HTTPS"}},
		"not ready":      {"http", answer(503), "passing", 1, []string{"✗ x-1", `is not ready: "the cellar is flooded\x1b`, "make its check in Consul call /readyz"}},
		"not, and known": {"http", answer(503), "critical", 1, []string{"✗ x-1", "is not ready", "see its log"}},
		"dead":           {"http", closedPort(t), "passing", 1, []string{"✗ x-1", "refuses connections"}},
		"gRPC":           {"http", serveGRPC(t, grpc.NewServer()), "passing", 1, []string{"✗ x-1", "does not answer HTTP"}},
		"another scheme": {"grpc", answer(200), "passing", 0, []string{"! x-1", "speaks HTTP/1, not gRPC", "scheme=http"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := consultest.Service{ID: "x-1", Name: "x", Meta: map[string]string{"scheme": test.scheme}, Checks: []consultest.Check{{Name: "lease", TTL: time.Hour, Status: test.status}}}
			s.Address, s.Port = splitAddress(t, test.address)
			if err := openAgent(t).Register(s); err != nil {
				t.Fatal(err)
			}
			r := runTool(t, "check", "x")
			r.want(t, test.code, "", "")
			for _, part := range test.out {
				if !strings.Contains(r.out, part) {
					t.Errorf("stdout %s, want %q in it", r.out, part)
				}
			}
		})
	}
}
