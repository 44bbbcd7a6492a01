package gateway_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/gateway"
	"github.com/meshlite-go/meshlite/gateway/contract"
	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/interceptors"
)

var errUnimplemented = status.Error(codes.Unimplemented, "unknown method")

// newGateway makes a gateway. Its owner closes it.
func newGateway(t testing.TB, m *mesh, config gateway.Config) *gateway.Gateway {
	t.Helper()
	config.Logger = m.log
	g, err := gateway.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// Case E10: A new service, method or changed contract is served within 5 s without a restart and without a failed request; a broken contract keeps the old one.
func TestContractsAreFollowedWithoutAFailedRequest(t *testing.T) {
	first, second := compile(t, pies), compile(t, morePies)
	broken := compile(t, strings.Replace(morePies, `ttl: "0s"`, `ttl: "soon"`, 1))
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.end()
		service := m.service("bakery", "*")
		defer service.Close()
		g := newGateway(t, m, gateway.Config{Services: []gateway.Service{service}})
		defer g.Close()
		want := func(status int, method, path, body string) {
			t.Helper()
			if got := ask(g, method, path, body); got.Code != status {
				t.Errorf("%s %s: %d %s, want %d", method, path, got.Code, got.Body, status)
			}
		}
		within := func(d time.Duration) { t.Helper(); time.Sleep(d); synctest.Wait() }

		within(20 * time.Second) // no instance yet
		want(404, "GET", "/v1/pies/apple", "")
		want(503, "GET", "/readyz", "")
		want(200, "GET", "/healthz", "")

		old := m.start("bakery", first)
		within(5 * time.Second)
		want(200, "GET", "/readyz", "")
		want(200, "GET", "/v1/pies/apple", "")
		want(200, "POST", "/pies.v1.PieService/BakePie", `{"id":"plum"}`)
		want(405, "POST", "/v1/pies/apple:eat", `{}`) // GET has the path
		want(404, "POST", "/grpc.health.v1.Health/Check", `{}`)

		// Load goes on through all that follows.
		var failed, asked atomic.Int64
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
				}
				asked.Add(1)
				if got := ask(g, "GET", "/v1/pies/apple", ""); got.Code != 200 {
					failed.Add(1)
					t.Errorf("a request failed: %d %s", got.Code, got.Body)
				}
			}
		}()
		newer := m.start("bakery", second)
		m.stop(old)
		within(4 * time.Second)
		want(200, "POST", "/v1/pies/apple:eat", `{"filling":"pear"}`)
		want(200, "POST", "/pies.v1.CrumbService/Sweep", `{}`)

		wrong := m.start("bakery", broken)
		m.stop(newer)
		within(4 * time.Second)
		want(200, "POST", "/v1/pies/apple:eat", `{"filling":"pear"}`)
		stats := g.Stats()[0]
		if stats.Refusals == 0 || stats.Error == "" || !stats.Serving || stats.Changes != 2 || !strings.Contains(stats.Error, "cache.ttl") {
			t.Errorf("stats %+v, want a refusal for cache.ttl, and the contract before it served", stats)
		}
		if !strings.Contains(m.lines.String(), "cache.ttl") || !strings.Contains(m.lines.String(), "kept=true") {
			t.Errorf("the log does not report the broken contract:\n%s", &m.lines)
		}

		m.start("bakery", first) // a rollback
		m.stop(wrong)
		within(4 * time.Second)
		want(405, "POST", "/v1/pies/apple:eat", `{}`) // GET has the path
		close(stop)
		<-stopped
		if asked.Load() < 1000 || failed.Load() > 0 {
			t.Errorf("%d of %d requests failed", failed.Load(), asked.Load())
		}
	})
}

// sourceFunc is a contract.Source.
type sourceFunc func(context.Context) (*contract.Contract, error)

func (f sourceFunc) Load(ctx context.Context) (*contract.Contract, error) { return f(ctx) }

// A contract whose taking panics is refused like any other, and keeps no other service from
// being served.
func TestAContractThatPanicsIsRefusedAlone(t *testing.T) {
	files := compile(t, pies)
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.end()
		hostile, bakery := m.service("hostile", "*"), m.service("bakery", "*")
		defer hostile.Close()
		defer bakery.Close()
		hostile.Contract = sourceFunc(func(context.Context) (*contract.Contract, error) {
			return &contract.Contract{Files: files, Services: []protoreflect.ServiceDescriptor{nil}}, nil
		})
		g := newGateway(t, m, gateway.Config{Services: []gateway.Service{hostile, bakery}})
		defer g.Close()
		time.Sleep(5 * time.Second)
		if stats := g.Stats()[0]; stats.Serving || !strings.Contains(stats.Error, "panic") {
			t.Errorf("%+v, want a refusal because of a panic", stats)
		}
		m.start("bakery", files)
		time.Sleep(5 * time.Second)
		if got := ask(g, "GET", "/v1/pies/apple", ""); got.Code != 200 {
			t.Errorf("the other service answers %d %s", got.Code, got.Body)
		}
	})
}

// CORS says whose pages may open a WebSocket.
func TestOriginsOfWebSockets(t *testing.T) {
	files := compile(t, strings.Replace(pies, "rpc BakePie", "rpc Stack(stream Pie) returns (Pie); rpc BakePie", 1))
	around, err := edge.New(edge.Config{CORS: edge.CORS{Origins: []string{"https://shop.example"}}, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.end()
		bakery := m.service("bakery", "*")
		defer bakery.Close()
		g := newGateway(t, m, gateway.Config{Edge: around, Services: []gateway.Service{bakery}})
		defer g.Close()
		m.start("bakery", files)
		time.Sleep(5 * time.Second)
		for origin, forbidden := range map[string]bool{"": false, "http://example.com": false, "https://shop.example": false, "https://evil.example": true} {
			r := httptest.NewRequest("GET", "/pies.v1.PieService/Stack", nil)
			for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Origin": origin} {
				if value != "" {
					r.Header.Set(name, value)
				}
			}
			want := http.StatusSwitchingProtocols // and no more, since a recorder has no connection
			if forbidden {
				want = http.StatusForbidden
			}
			w := httptest.NewRecorder()
			if g.ServeHTTP(w, r); w.Code != want {
				t.Errorf("origin %q: %d %s, want %d", origin, w.Code, w.Body, want)
			}
		}
	})
}

// A request that runs while its contract is replaced ends on the old one.
func TestARequestInFlightEndsOnTheOldContract(t *testing.T) {
	first, second := compile(t, pies), compile(t, strings.Replace(pies, "rpc BakePie(Pie) returns (Pie);", "", 1))
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.end()
		service := m.service("bakery", "pies.v1.PieService")
		defer service.Close()
		g := newGateway(t, m, gateway.Config{Services: []gateway.Service{service}})
		defer g.Close()
		old := m.start("bakery", first)
		old.hold = make(chan struct{})
		time.Sleep(5 * time.Second)
		answer := make(chan *httptest.ResponseRecorder, 1)
		go func() { answer <- ask(g, "POST", "/pies.v1.PieService/BakePie", `{"id":"plum"}`) }()
		<-old.holding
		m.start("bakery", second)
		m.agent.Deregister(old.id)
		time.Sleep(5 * time.Second)
		if got := ask(g, "POST", "/pies.v1.PieService/BakePie", `{}`); got.Code != 404 {
			t.Errorf("a method that is gone: %d %s, want 404", got.Code, got.Body)
		}
		close(old.hold)
		if got := <-answer; got.Code != 200 || !strings.Contains(got.Body.String(), old.id) {
			t.Errorf("the request in flight: %d %s, want 200 of %s", got.Code, got.Body, old.id)
		}
	})
}

func TestAServiceThatWasNeverReadIsUnavailableOnItsOwnPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.end()
		down := m.service("bakery", "pies.v1.PieService", "crumbs.v1.CrumbService/Sweep")
		defer down.Close()
		page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
		g := newGateway(t, m, gateway.Config{Services: []gateway.Service{down}, Sites: map[string]http.Handler{"/web/": page}})
		defer g.Close()
		for path, want := range map[string]int{
			"/pies.v1.PieService/GetPie":     503,
			"/crumbs.v1.CrumbService/Sweep":  503,
			"/crumbs.v1.CrumbService/Sweeps": 404,
			"/crumbs.v1.CrumbService/Other":  404,
			"/pies.v1.PieServices/GetPie":    404,
			"/v1/pies/apple":                 404,
			"/web/page":                      http.StatusTeapot,
			"/webs":                          404,
		} {
			got := ask(g, "POST", path, "{}")
			if got.Code != want || want == 503 && got.Header().Get("Retry-After") == "" {
				t.Errorf("%s: %d %v %s, want %d", path, got.Code, got.Header(), got.Body, want)
			}
		}
		if err := g.Ready(); err == nil || !strings.Contains(err.Error(), "bakery") {
			t.Errorf("ready: %v, want the name of the service", err)
		}
		time.Sleep(30 * time.Second) // ReadyTimeout
		if err := g.Ready(); err != nil {
			t.Errorf("one service that is down keeps the gateway from being ready: %v", err)
		}
	})
}

// Of two services with one route the first in the config has it at the start. Later on a
// contract that changes into a conflict is refused, and no service loses what it serves.
func TestServicesInConflict(t *testing.T) {
	first := compile(t, pies)
	rival := strings.Replace(pies, "package pies.v1", "package tarts.v1", 1)
	same, other := compile(t, rival), compile(t, strings.Replace(rival, "/v1/pies/{id}", "/v1/tarts/{id}", 1))
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.end()
		bakery, confectioner := m.service("bakery", "*"), m.service("confectioner", "*")
		defer bakery.Close()
		defer confectioner.Close()
		g := newGateway(t, m, gateway.Config{Services: []gateway.Service{bakery, confectioner}})
		defer g.Close()
		from := func(path, want string) {
			t.Helper()
			if got := ask(g, "GET", path, ""); !strings.Contains(got.Body.String(), `"`+want) {
				t.Errorf("%s: %d %s, want an answer of %s", path, got.Code, got.Body, want)
			}
		}
		tarts := m.start("confectioner", same)
		time.Sleep(5 * time.Second)
		from("/v1/pies/apple", "confectioner")
		m.start("bakery", first)
		time.Sleep(5 * time.Second)
		from("/v1/pies/apple", "bakery")
		if stats := g.Stats(); !stats[0].Serving || stats[1].Serving || stats[1].Error == "" || !strings.Contains(m.lines.String(), "service left out") {
			t.Errorf("stats %+v, want the second service left out", stats)
		}
		moved := m.start("confectioner", other)
		m.stop(tarts)
		time.Sleep(4 * time.Second)
		from("/v1/pies/apple", "bakery")
		from("/v1/tarts/apple", "confectioner")
		if stats := g.Stats(); !stats[1].Serving || stats[1].Error != "" {
			t.Errorf("stats %+v, want the second service served", stats)
		}
		m.start("confectioner", same)
		m.stop(moved)
		time.Sleep(4 * time.Second)
		from("/v1/pies/apple", "bakery")
		from("/v1/tarts/apple", "confectioner") // by the contract before
		if stats := g.Stats(); stats[1].Refusals == 0 || !stats[1].Serving {
			t.Errorf("stats %+v, want the contract refused and the one before served", stats)
		}
	})
}

// "/" is a site like others: it gets what no method has.
func TestASiteAtTheRootGetsWhatNothingElseHas(t *testing.T) {
	first := compile(t, pies)
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.end()
		service := m.service("bakery", "*")
		defer service.Close()
		site := func(name string) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(name)) })
		}
		g := newGateway(t, m, gateway.Config{Services: []gateway.Service{service}, Sites: map[string]http.Handler{
			"/": site("root"), "/web/": site("web"), "/web/admin/": site("admin"),
		}})
		defer g.Close()
		m.start("bakery", first)
		time.Sleep(5 * time.Second)
		for path, want := range map[string]string{
			"/": "root", "/index.html": "root", "/v1/pies/a/b": "root", "/web/": "web", "/web/x": "web", "/web/admin/x": "admin",
			"/v1/pies/apple": "bakery-1", "/healthz": "ok",
		} {
			if got := ask(g, "GET", path, ""); got.Code != 200 || !strings.Contains(got.Body.String(), want) {
				t.Errorf("%s: %d %s, want %s", path, got.Code, got.Body, want)
			}
		}
	})
}

// HTTP caches may keep what the cache of the channel may keep.
func TestCacheControlFollowsThePolicyOfTheContract(t *testing.T) {
	first, second := compile(t, pies), compile(t, strings.Replace(pies, `ttl: "0s"`, `ttl: "90s" vary: "accept-language"`, 1))
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.end()
		service := m.service("bakery", "*")
		defer service.Close()
		g := newGateway(t, m, gateway.Config{Services: []gateway.Service{service}})
		defer g.Close()
		old := m.start("bakery", first)
		time.Sleep(5 * time.Second)
		if got := ask(g, "GET", "/v1/pies/apple", "").Header().Get("Cache-Control"); strings.Contains(got, "public") || strings.Contains(got, "max-age=90") {
			t.Errorf("Cache-Control %q of a method that is not cached", got)
		}
		m.start("bakery", second)
		m.stop(old)
		time.Sleep(4 * time.Second)
		header := ask(g, "GET", "/v1/pies/apple", "").Header()
		if got := header.Get("Cache-Control"); !strings.Contains(got, "public") || !strings.Contains(got, "max-age=90") {
			t.Errorf("Cache-Control %q, want public and max-age=90", got)
		}
		if got := strings.Join(header["Vary"], ", "); !strings.Contains(strings.ToLower(got), "accept-language") {
			t.Errorf("Vary %q, want accept-language", got)
		}
	})
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	conn, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	good := gateway.Service{Name: "bakery", Conn: conn, Offer: []string{"*"}}
	shared := &interceptors.Contracts{}
	with := func(change func(*gateway.Config)) gateway.Config {
		config := gateway.Config{Services: []gateway.Service{good}}
		change(&config)
		return config
	}
	for want, config := range map[string]gateway.Config{
		"Config.Services and Config.Sites are empty":        {},
		"Config.Services[0].Name is empty":                  with(func(c *gateway.Config) { c.Services[0].Name = "" }),
		`Config.Services[0].Conn of "bakery" is nil`:        with(func(c *gateway.Config) { c.Services[0].Conn = nil }),
		`Offer of "bakery" is empty, so nothing is let out`: with(func(c *gateway.Config) { c.Services[0].Offer = nil }),
		`Offer of "bakery": "pies/v1/Get" is no name`:       with(func(c *gateway.Config) { c.Services[0].Offer = []string{"pies/v1/Get"} }),
		`"grpc.health.v1.Health" is gRPC's own service`:     with(func(c *gateway.Config) { c.Services[0].Offer = []string{"grpc.health.v1.Health"} }),
		`Config.Services[1].Name "bakery" is taken`:         with(func(c *gateway.Config) { c.Services = append(c.Services, good) }),
		`Config.Services[1].Contracts of "other" are those`: {Services: []gateway.Service{
			{Name: "bakery", Conn: conn, Offer: []string{"*"}, Contracts: shared}, {Name: "other", Conn: conn, Offer: []string{"*"}, Contracts: shared},
		}},
		`Config.Sites["web"]: the prefix has no slash at both`: with(func(c *gateway.Config) { c.Sites = map[string]http.Handler{"web": http.NotFoundHandler()} }),
		`Config.Sites["/web/"]: the handler is nil`:            with(func(c *gateway.Config) { c.Sites = map[string]http.Handler{"/web/": nil} }),
		"Config.Interval 1ms is too short":                     with(func(c *gateway.Config) { c.Interval = time.Millisecond }),
		"Config.ReadyTimeout -1s is negative":                  with(func(c *gateway.Config) { c.ReadyTimeout = -time.Second }),
		"Config.MaxDepth is negative":                          with(func(c *gateway.Config) { c.Transcode.MaxDepth = -1 }),
	} {
		if g, err := gateway.New(config); err == nil || g != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := gateway.Dial("consul:///bakery", nil, meshlite.WithPlaintext()); err == nil || !strings.Contains(err.Error(), "needs its directory") {
		t.Errorf("got %v, want that the directory is missing", err)
	}
}
