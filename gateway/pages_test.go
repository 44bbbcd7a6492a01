package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/gateway"
	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/gateway/openapi"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func Example() {
	agent := consultest.New() // a Consul agent
	defer agent.Close()
	directory, err := consul.New(consul.Config{Address: "127.0.0.1:8500", Transport: agent.Transport()})
	if err != nil {
		fmt.Println(err)
		return
	}
	catalog, err := gateway.Dial("consul:///catalog", directory, meshlite.WithPlaintext(), meshlite.WithLogger(silent))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer catalog.Close()
	catalog.Offer = []string{"sweetshop.catalog.v1.CatalogService"}
	door, err := gateway.New(gateway.Config{Services: []gateway.Service{catalog}, Logger: silent})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer door.Close()
	// http.ListenAndServe("127.0.0.1:8080", door)
	w := httptest.NewRecorder()
	door.ServeHTTP(w, httptest.NewRequest("POST", "/sweetshop.catalog.v1.CatalogService/GetSweet", strings.NewReader("{}")))
	fmt.Println(w.Code, w.Header().Get("Retry-After")) // no instance is registered
	// Output: 503 2
}

// The document and the page describe what is let out now, and nothing else.
func TestPagesFollowTheContract(t *testing.T) {
	first, second := compile(t, pies), compile(t, morePies)
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.end()
		service := m.service("bakery", "pies.v1.PieService")
		defer service.Close()
		g := newGateway(t, m, gateway.Config{Services: []gateway.Service{service}, Info: openapi.Info{Title: "Bakery"}})
		defer g.Close()
		paths := func() (title string, names map[string]any, etag string) {
			t.Helper()
			got := ask(g, "GET", "/openapi.json", "")
			var document struct {
				Info  struct{ Title string }
				Paths map[string]any
			}
			if err := json.Unmarshal(got.Body.Bytes(), &document); err != nil || got.Code != 200 || got.Header().Get("Content-Type") != "application/json" {
				t.Fatalf("%d %v %s: %v", got.Code, got.Header(), got.Body, err)
			}
			return document.Info.Title, document.Paths, got.Header().Get("ETag")
		}
		old := m.start("bakery", first)
		time.Sleep(5 * time.Second)
		title, names, etag := paths()
		if title != "Bakery" || names["/v1/pies/{id}"] == nil || names["/pies.v1.PieService/BakePie"] == nil || len(names) != 2 {
			t.Errorf("title %q, paths %v", title, names)
		}
		r := httptest.NewRequest("GET", "/openapi.json", nil)
		r.Header.Set("If-None-Match", etag)
		if w := httptest.NewRecorder(); true {
			if g.ServeHTTP(w, r); w.Code != http.StatusNotModified {
				t.Errorf("If-None-Match: %d, want 304", w.Code)
			}
		}
		m.start("bakery", second)
		m.stop(old)
		time.Sleep(4 * time.Second)
		if _, names, again := paths(); names["/v1/pies/{id}:eat"] == nil || names["/pies.v1.CrumbService/Sweep"] != nil || again == etag {
			t.Errorf("paths %v, ETag %s: want the new method, and not the service that is not offered", names, again)
		}
		for _, path := range []string{"/", "/openapi/"} {
			if got := ask(g, "GET", path, ""); got.Code != 200 || !strings.Contains(got.Body.String(), "/openapi.json") {
				t.Errorf("%s: %d, want the page", path, got.Code)
			}
		}
		if got := ask(g, "POST", "/openapi.json", "{}"); got.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST of the document: %d, want 405", got.Code)
		}
	})
}

// The edge stands around methods, sites and pages, but not around health; requests are
// counted by their route.
func TestTheEdgeStandsAroundAllButHealth(t *testing.T) {
	first := compile(t, pies)
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.end()
		service := m.service("bakery", "*")
		defer service.Close()
		around, err := edge.New(edge.Config{Verifier: tokens{}, RequireSubject: true, Logger: silent})
		if err != nil {
			t.Fatal(err)
		}
		subjects := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, edge.CallerOf(r.Context()).Subject) })
		g := newGateway(t, m, gateway.Config{Services: []gateway.Service{service}, Edge: around, Sites: map[string]http.Handler{"/web/": subjects}})
		defer g.Close()
		instance := m.start("bakery", first)
		time.Sleep(5 * time.Second)
		for _, path := range []string{"/v1/pies/apple", "/web/", "/openapi.json", "/"} {
			if got := ask(g, "GET", path, ""); got.Code != http.StatusUnauthorized {
				t.Errorf("%s of nobody: %d, want 401", path, got.Code)
			}
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			if got := ask(g, "GET", path, ""); got.Code != 200 {
				t.Errorf("%s of nobody: %d, want 200", path, got.Code)
			}
		}
		as := func(path string) *httptest.ResponseRecorder {
			w, r := httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)
			r.Header.Set("Authorization", "Bearer alice")
			r.Header.Set("X-Meshlite-Subject", "mallory")
			g.ServeHTTP(w, r)
			return w
		}
		if got := as("/web/page"); got.Code != 200 || got.Body.String() != "alice" {
			t.Errorf("site: %d %s, want alice", got.Code, got.Body)
		}
		if got := as("/v1/pies/apple"); got.Code != 200 {
			t.Errorf("method: %d %s", got.Code, got.Body)
		}
		if got := strings.Join(instance.subjects(), " "); got != "alice" {
			t.Errorf("the backend got the subjects %q, want alice alone", got)
		}
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(g)
		gathered, err := testutil.GatherAndCount(registry, "meshlite_gateway_contract_loads_total", "meshlite_gateway_contract_changes_total",
			"meshlite_gateway_contract_read_timestamp_seconds", "meshlite_gateway_service_serving")
		if err != nil || gathered != 6 {
			t.Errorf("%d series, %v, want 6", gathered, err)
		}
		text, err := testutil.CollectAndFormat(g, expfmt.TypeTextPlain, "meshlite_edge_requests_total")
		for _, route := range []string{`route="/v1/pies/{id}"`, `route="/web/"`} {
			if err != nil || !strings.Contains(string(text), route) {
				t.Errorf("requests are not counted by %s: %v\n%s", route, err, text)
			}
		}
	})
}

// Case E5
//
// An answer for one subject is cached for that subject alone, in the cache of the channel and
// in those of HTTP; one for nobody is not cached at all.
func TestNoAnswerForOneUserReachesAnother(t *testing.T) {
	private := compile(t, strings.Replace(pies, `ttl: "0s" scope: CACHE_SCOPE_PUBLIC`, `ttl: "1h"`, 1))
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.end()
		service := m.service("bakery", "*")
		defer service.Close()
		around, err := edge.New(edge.Config{Verifier: tokens{}, Logger: silent})
		if err != nil {
			t.Fatal(err)
		}
		g := newGateway(t, m, gateway.Config{Services: []gateway.Service{service}, Edge: around})
		defer g.Close()
		instance := m.start("bakery", private)
		time.Sleep(5 * time.Second)
		for _, test := range []struct {
			token string
			calls int
		}{{"alice", 1}, {"alice", 1}, {"bob", 2}, {"alice", 2}, {"bob", 2}, {"", 3}, {"", 4}, {"alice", 4}} {
			w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/v1/pies/apple", nil)
			if test.token != "" {
				r.Header.Set("Authorization", "Bearer "+test.token)
			}
			g.ServeHTTP(w, r)
			var pie struct{ Note string }
			err := json.Unmarshal(w.Body.Bytes(), &pie)
			want := "bakery-1"
			if test.token != "" {
				want += " for " + test.token
			}
			if err != nil || pie.Note != want || instance.called() != test.calls {
				t.Errorf("%q got %s after %d calls, want %s after %d", test.token, w.Body, instance.called(), want, test.calls)
			}
			if control := w.Header().Get("Cache-Control"); strings.Contains(control, "public") || !strings.Contains(control, "private") && !strings.Contains(control, "no-store") {
				t.Errorf("Cache-Control %q of a private answer", control)
			}
		}
	})
}

// tokens takes a token for its subject.
type tokens struct{}

func (tokens) Verify(_ context.Context, token string) (string, error) { return token, nil }
