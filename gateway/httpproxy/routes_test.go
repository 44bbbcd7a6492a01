package httpproxy_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/gateway/httpcache"
	"github.com/meshlite-go/meshlite/gateway/httpproxy"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// routed is a site whose service has a chain.
type routed struct {
	*httpproxy.Proxy
	t     *testing.T
	agent *consultest.Server
	cache *httpcache.Cache
}

// newRouted is a site at /web/ of the service web, with the config entries of its chain. Answers
// are what a backend writes.
func newRouted(t *testing.T, config httpproxy.Config, instances map[string]http.HandlerFunc, entries ...string) *routed {
	t.Helper()
	s := &routed{t: t, agent: consultest.New()}
	t.Cleanup(s.agent.Close)
	for id, handler := range instances {
		s.start(id, handler)
	}
	s.write(`{"Kind": "service-defaults", "Name": "web", "Protocol": "http"}`)
	s.write(`{"Kind": "service-defaults", "Name": "other", "Protocol": "http"}`)
	s.write(entries...)
	directory, err := consul.New(consul.Config{Transport: s.agent.Transport(), Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(directory.Close)
	config.Name, config.Prefix, config.Log, config.Policy = "web", "/web/", silent, "round_robin"
	config.Service, config.FollowRoutes = catalog.Query{Service: "web"}, resolver.NewBuilder(directory, resolver.WithLogger(silent), resolver.WithPanicThreshold(0), resolver.WithGrace(10*time.Millisecond)).FollowRoutes
	if s.cache, err = httpcache.New(httpcache.Config{Key: httpproxy.Destination}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.cache.Close)
	config.Wrap = s.cache.Transport
	if s.Proxy, err = httpproxy.New(config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Proxy.Close)
	eventually(t, "the chain is read", func() bool { stats := s.Routes().Stats(); return stats.Failed || len(stats.Routes) > 0 })
	return s
}

// start starts an instance. Its id is "version", "version-n", or "service/version-n".
func (s *routed) start(id string, handler http.HandlerFunc) {
	s.t.Helper()
	server := httptest.NewServer(handler)
	s.t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		s.t.Fatal(err)
	}
	service, version, other := strings.Cut(id, "/")
	if !other {
		service, version = "web", id
	}
	version, _, _ = strings.Cut(version, "-")
	if err := s.agent.Register(consultest.Service{Name: service, ID: strings.ReplaceAll(id, "/", "-"), Address: u.Hostname(), Port: port, Meta: map[string]string{"version": version}}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *routed) write(entries ...string) {
	s.t.Helper()
	for _, entry := range entries {
		if err := s.agent.WriteConfig(entry); err != nil {
			s.t.Fatal(err)
		}
	}
}

const subsets = `{"Kind": "service-resolver", "Name": "web", "DefaultSubset": "v1", "Subsets": {
	"v1": {"Filter": "Service.Meta.version == \"v1\""}, "v2": {"Filter": "Service.Meta.version == \"v2\""}}}`

func router(routes ...string) string {
	return fmt.Sprintf(`{"Kind": "service-router", "Name": "web", "Routes": [%s]}`, strings.Join(routes, ","))
}

func splits(v1, v2 float64) string {
	return fmt.Sprintf(`{"Kind": "service-splitter", "Name": "web", "Splits": [{"Weight": %v, "ServiceSubset": "v1"}, {"Weight": %v, "ServiceSubset": "v2"}]}`, v1, v2)
}

// says answers with a name, and what it gets.
func says(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name, " ", r.RequestURI) }
}

func (s *routed) get(path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// Case T1
func TestRequestsGoWhereTheChainSays(t *testing.T) {
	s := newRouted(t, httpproxy.Config{}, map[string]http.HandlerFunc{"v1": says("v1"), "v2": says("v2"), "other/v1": says("other")}, subsets, router(
		`{"Match": {"HTTP": {"PathExact": "/exact"}}, "Destination": {"ServiceSubset": "v2"}}`,
		`{"Match": {"HTTP": {"PathPrefix": "/api/", "QueryParam": [{"Name": "beta", "Present": true}]}}, "Destination": {"ServiceSubset": "v2", "PrefixRewrite": "/v2/"}}`,
		`{"Match": {"HTTP": {"PathPrefix": "/api/", "QueryParam": [{"Name": "v", "Regex": "[23]"}, {"Name": "a", "Exact": "b"}]}}, "Destination": {"Service": "other"}}`,
		`{"Match": {"HTTP": {"PathRegex": "/r/[0-9]+"}}, "Destination": {"Service": "other"}}`,
		`{"Match": {"HTTP": {"PathPrefix": "/", "Header": [{"Name": "X-Canary", "Exact": "1"}]}}, "Destination": {"ServiceSubset": "v2"}}`,
		`{"Match": {"HTTP": {"PathPrefix": "/not", "Header": [{"Name": "X-User", "Prefix": "a", "Invert": true}]}}, "Destination": {"ServiceSubset": "v2"}}`,
		`{"Match": {"HTTP": {"PathPrefix": "/", "Header": [{"Name": "Host", "Suffix": ".example"}]}}, "Destination": {"Service": "other", "PrefixRewrite": "/host/"}}`,
		`{"Match": {"HTTP": {"PathPrefix": "/put", "Methods": ["PUT", "DELETE"]}}, "Destination": {"ServiceSubset": "v2"}}`,
		`{"Match": {"HTTP": {"PathPrefix": "/CASE", "CaseInsensitive": true}}, "Destination": {"ServiceSubset": "v2", "PrefixRewrite": "/low"}}`,
	))
	for _, test := range []struct{ method, path, header, want string }{
		{"GET", "/exact", "", "v2 /exact"},
		{"GET", "/exact/", "", "v1 /exact/"},
		{"GET", "/api/a%2Fb?beta", "", "v2 /v2/a%2Fb?beta"},
		{"GET", "/api/a?v=2&a=b", "", "other /api/a?v=2&a=b"},
		{"GET", "/api/a?v=22&a=b", "", "v1 /api/a?v=22&a=b"},
		{"GET", "/api/a?v=2", "", "v1 /api/a?v=2"},
		{"GET", "/r/12", "", "other /r/12"},
		{"GET", "/r/12/", "", "v1 /r/12/"},
		{"GET", "/any", "X-Canary: 1", "v2 /any"},
		{"GET", "/any", "X-Canary: 2", "v1 /any"},
		{"GET", "/not", "X-User: bob", "v2 /not"},
		{"GET", "/not", "X-User: alice", "v1 /not"},
		{"GET", "/not", "", "v1 /not"},
		{"GET", "/any/b", "Host: shop.example", "other /host/any/b"},
		{"PUT", "/put", "", "v2 /put"},
		{"GET", "/put", "", "v1 /put"},
		{"GET", "/cAsE/b", "", "v2 /low/b"},
		{"GET", "/web/exact", "", "v1 /web/exact"}, // the chain sees what the service sees
	} {
		r := httptest.NewRequest(test.method, "/web"+test.path, nil)
		r.Host = "shop"
		if name, value, ok := strings.Cut(test.header, ": "); ok && name == "Host" {
			r.Host = value
		} else if ok {
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != http.StatusOK || w.Body.String() != test.want {
			t.Errorf("%s %s %s: %d %s, want %s", test.method, test.path, test.header, w.Code, w.Body, test.want)
		}
	}
	if stats := s.Routes().Stats(); stats.Service != "web" || len(stats.Routes) != 10 || stats.Routes[0].Arms[0].Targets[0].Succeeded != 1 {
		t.Errorf("routes are %+v", stats)
	}
}

// A rewritten path leads nowhere else, in any encoding.
func TestRewrittenPathsAreClean(t *testing.T) {
	s := newRouted(t, httpproxy.Config{}, map[string]http.HandlerFunc{"v1": says("v1")},
		router(`{"Match": {"HTTP": {"PathPrefix": "/api"}}, "Destination": {"PrefixRewrite": "/inner/"}}`))
	for path, want := range map[string]string{
		"/web/api/a":               "v1 /inner/a",
		"/web/api":                 "v1 /inner/",
		"/web/api/%252e%252e/b":    "v1 /inner/%252e%252e/b", // decoded once, by the service
		"/web/%61pi/a%2Fb%3Fc?d=e": "v1 /inner/a%2Fb%3Fc?d=e",
		"/web/api%0d%0aX:y":        "",
		"/web/api../admin":         "",
		"/web/api%2e%2e/admin":     "",
		"/web/api..%2fadmin":       "",
		`/web/api..%5cadmin`:       "",
		"/web/api/../../admin":     "",
		"/web/api/..;/admin":       "",
	} {
		w := s.get(path)
		if want == "" && w.Code != http.StatusBadRequest || want != "" && (w.Code != http.StatusOK || w.Body.String() != want) {
			t.Errorf("%s: %d %s, want %q", path, w.Code, w.Body, want)
		}
	}
}

// Case T2
// Case T3
func TestRequestsAreSplit(t *testing.T) {
	s := newRouted(t, httpproxy.Config{}, map[string]http.HandlerFunc{"v1-1": says("v1"), "v1-2": says("v1"), "v2": says("v2")}, subsets, splits(90, 10))
	count := func(requests int) (v2 int) {
		for range requests {
			if w := s.get("/web/"); w.Code != http.StatusOK {
				t.Fatal(w.Code, w.Body)
			} else if strings.HasPrefix(w.Body.String(), "v2") {
				v2++
			}
		}
		return v2
	}
	if n := count(1000); n < 98 || n > 102 {
		t.Errorf("%d of 1000 requests went to an arm of 10 %%", n)
	}
	if err := s.agent.SetStatus("v2", "critical"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the arm is empty", func() bool { return s.Routes().Stats().Routes[0].Arms[1].Empty })
	if n := count(100); n != 0 {
		t.Errorf("%d of 100 requests went to an empty arm", n)
	}
}

// Case T4
func TestRequestsFailOver(t *testing.T) {
	s := newRouted(t, httpproxy.Config{}, map[string]http.HandlerFunc{"v1-1": says("v1"), "v1-2": says("v1"), "other/v1": says("other")},
		`{"Kind": "service-resolver", "Name": "web", "Failover": {"*": {"Service": "other"}}}`)
	if w := s.get("/web/a"); w.Body.String() != "v1 /a" {
		t.Fatal(w.Code, w.Body)
	}
	for _, id := range []string{"v1-1", "v1-2"} {
		if err := s.agent.SetStatus(id, "critical"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the other service has the requests", func() bool {
		w := s.get("/web/a")
		if w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
		return w.Body.String() == "other /a"
	})
}

// Headers are changed on both ways, those of the route first, and in an answer from the cache, too.
func TestHeadersOfRequestsAreChanged(t *testing.T) {
	var got atomic.Pointer[http.Header]
	s := newRouted(t, httpproxy.Config{Client: func(*http.Request) netip.Addr { return netip.MustParseAddr("192.0.2.7") }}, map[string]http.HandlerFunc{"v1": func(w http.ResponseWriter, r *http.Request) {
		got.Store(&r.Header)
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("X-Inner", "1")
	}}, router(`{"Match": {"HTTP": {"PathPrefix": "/"}}, "Destination": {
		"RequestHeaders": {"Add": {"X-Tier": "gold"}, "Set": {"Accept": "text/html"}, "Remove": ["X-Debug"]},
		"ResponseHeaders": {"Add": {"Vary": "X-Any"}, "Set": {"X-Frame-Options": "DENY"}, "Remove": ["X-Inner"]}}}`))
	for _, kept := range []bool{false, true} {
		w := s.get("/web/", "X-Debug", "1", "X-Tier", "iron", "Accept", "text/plain")
		h := w.Header()
		if w.Code != 200 || h.Get("X-Frame-Options") != "DENY" || h.Get("X-Inner") != "" || h.Get("Vary") != "X-Any" || strings.Contains(h.Get("Cache-Status"), "hit") != kept {
			t.Errorf("%d with %v", w.Code, h)
		}
	}
	h := *got.Load()
	if h.Get("Accept") != "text/html" || fmt.Sprint(h.Values("X-Tier")) != "[iron gold]" || h.Get("X-Debug") != "" || h.Get("X-Forwarded-For") != "192.0.2.7" {
		t.Errorf("the service gets %v", h)
	}
}

// Case T9
func TestAnswersAreKeptByDestination(t *testing.T) {
	kept := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			fmt.Fprint(w, name)
		}
	}
	s := newRouted(t, httpproxy.Config{}, map[string]http.HandlerFunc{"v1": kept("v1"), "v2": kept("v2")}, subsets,
		router(`{"Match": {"HTTP": {"PathPrefix": "/", "Header": [{"Name": "X-Canary", "Present": true}]}}, "Destination": {"ServiceSubset": "v2"}}`))
	for range 3 {
		if a, b := s.get("/web/"), s.get("/web/", "X-Canary", "1"); a.Body.String() != "v1" || b.Body.String() != "v2" {
			t.Fatalf("%s and %s, want v1 and v2", a.Body, b.Body)
		}
	}
	if stats := s.cache.Stats(); stats.Stored != 2 || stats.Hits != 4 {
		t.Errorf("the cache has %+v", stats)
	}
}

// An answer that comes from another destination after a retry is not kept for the first.
func TestAnswersOfARetryElsewhereAreNotKept(t *testing.T) {
	var v1, v2 atomic.Int64
	s := newRouted(t, httpproxy.Config{}, map[string]http.HandlerFunc{
		"v1": func(w http.ResponseWriter, _ *http.Request) {
			if v1.Add(1) == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			w.Header().Set("Cache-Control", "max-age=60")
			fmt.Fprint(w, "v1")
		},
		"v2": func(w http.ResponseWriter, _ *http.Request) {
			v2.Add(1)
			w.Header().Set("Cache-Control", "max-age=60")
			fmt.Fprint(w, "v2")
		},
	}, subsets, splits(99.99, 0.01), router(`{"Destination": {"NumRetries": 2, "RetryOnStatusCodes": [503]}}`))
	if w := s.get("/web/"); w.Code != 200 || w.Body.String() != "v2" || v1.Load() != 1 {
		t.Fatal(w.Code, w.Body, v1.Load())
	}
	if w := s.get("/web/"); w.Body.String() != "v1" || s.cache.Stats().Hits != 0 {
		t.Errorf("the next answer is %s, %+v", w.Body, s.cache.Stats())
	}
	if stats := s.Routes().Stats(); stats.Routes[0].Arms[1].Targets[0].Picked != 1 {
		t.Errorf("%+v", stats.Routes[0].Arms)
	}
}

func TestRoutesRetry(t *testing.T) {
	for name, test := range map[string]struct {
		method, destination string
		status              int
		want                int // requests to the instances
	}{
		"a status":             {"GET", `{"NumRetries": 3, "RetryOnStatusCodes": [500]}`, 500, 4},
		"another status":       {"GET", `{"NumRetries": 3, "RetryOnStatusCodes": [500]}`, 503, 1},
		"any error":            {"GET", `{"NumRetries": 2, "RetryOn": ["5xx"]}`, 500, 3},
		"a gateway's error":    {"PUT", `{"NumRetries": 1, "RetryOn": ["gateway-error"]}`, 502, 2},
		"no gateway's error":   {"GET", `{"NumRetries": 1, "RetryOn": ["gateway-error"]}`, 500, 1},
		"a conflict":           {"GET", `{"NumRetries": 1, "RetryOn": ["retriable-4xx"]}`, 409, 2},
		"what runs once":       {"POST", `{"NumRetries": 3, "RetryOn": ["5xx"]}`, 503, 1},
		"the site's own count": {"GET", `{"RetryOn": ["5xx"]}`, 503, 3},
		"nothing":              {"GET", `{}`, 503, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			failing := func(w http.ResponseWriter, _ *http.Request) {
				requests.Add(1)
				w.WriteHeader(test.status)
				fmt.Fprint(w, "no")
			}
			instances := map[string]http.HandlerFunc{}
			for i := range 5 {
				instances[fmt.Sprint("v1-", i)] = failing
			}
			s := newRouted(t, httpproxy.Config{}, instances, router(`{"Destination": `+test.destination+`}`))
			w := do(s, test.method, "/web/", "")
			if w.Code != test.status || w.Body.String() != "no" || int(requests.Load()) != test.want {
				t.Errorf("%d %s after %d requests, want %d after %d", w.Code, w.Body, requests.Load(), test.status, test.want)
			}
			if n := s.Stats().InFlight; n != 0 {
				t.Errorf("%d requests are in flight", n)
			}
		})
	}
}

// A timeout of the route, also for one that asks for a WebSocket, or else of the resolver, is 504.
func TestRoutesTimeOut(t *testing.T) {
	release := make(chan struct{})
	s := newRouted(t, httpproxy.Config{}, map[string]http.HandlerFunc{"v1": func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fast" {
			return
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}}, `{"Kind": "service-resolver", "Name": "web", "RequestTimeout": "30ms"}`,
		router(`{"Match": {"HTTP": {"PathPrefix": "/route"}}, "Destination": {"RequestTimeout": "20ms"}}`,
			`{"Match": {"HTTP": {"PathPrefix": "/fast"}}, "Destination": {"RequestTimeout": "1h"}}`))
	t.Cleanup(func() { close(release) })
	for _, path := range []string{"/web/route", "/web/resolver"} {
		checkProblem(t, s.get(path), http.StatusGatewayTimeout)
		checkProblem(t, s.get(path, "Connection", "Upgrade", "Upgrade", "websocket"), http.StatusGatewayTimeout)
	}
	if w := s.get("/web/fast"); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Case T7
func TestRefusedChainsOfASite(t *testing.T) {
	s := newRouted(t, httpproxy.Config{}, map[string]http.HandlerFunc{"v1": says("v1"), "v2": says("v2")}, subsets,
		router(`{"Destination": {"IdleTimeout": "5s"}}`))
	checkProblem(t, s.get("/web/"), http.StatusServiceUnavailable)
	if stats := s.Routes().Stats(); !stats.Failed || !strings.Contains(stats.Error, "IdleTimeout 5s") || strings.Contains(stats.Error, "gRPC") {
		t.Errorf("%+v", stats)
	}
	s.write(router(`{"Destination": {"ServiceSubset": "v2"}}`))
	eventually(t, "the chain is good", func() bool { return s.get("/web/").Body.String() == "v2 /" })
	s.write(router(`{"Destination": {"ServiceSubset": "v1", "RequestHeaders": {"Set": {"X-Forwarded-For": "1.2.3.4"}}}}`))
	eventually(t, "the chain is refused", func() bool { return strings.Contains(s.Routes().Stats().Error, `"x-forwarded-for"`) })
	if w := s.get("/web/"); w.Body.String() != "v2 /" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Case T6
// Case T16
func TestNoRequestFailsWhileTheChainChanges(t *testing.T) {
	s := newRouted(t, httpproxy.Config{}, map[string]http.HandlerFunc{
		"v1-1": says("v1"), "v1-2": says("v1"), "v2": says("v2"), "other/v1": says("other"),
	}, subsets)
	if w := s.get("/web/"); w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	stop := make(chan struct{})
	var work sync.WaitGroup
	var sent atomic.Int64
	for range 4 {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if w := s.get("/web/a"); w.Code != http.StatusOK {
					t.Errorf("%d %s", w.Code, w.Body)
					return
				}
				sent.Add(1)
				runtime.Gosched()
			}
		})
	}
	seen := func(what, want string) {
		t.Helper()
		eventually(t, what, func() bool { return t.Failed() || s.get("/web/a").Body.String() == want })
	}
	for i := range 3 {
		s.write(router(`{"Destination": {"ServiceSubset": "v2"}}`))
		seen("the canary has all", "v2 /a")
		s.write(splits(50, 50), router(`{"Match": {"HTTP": {"PathExact": "/a"}}, "Destination": {"Service": "other", "PrefixRewrite": "/b"}}`))
		seen("another service has all", "other /b")
		s.write(router(fmt.Sprintf(`{"Destination": {"ServiceSubset": "v1", "RequestTimeout": "%ds"}}`, 10+i)))
		seen("the first version has all", "v1 /a")
	}
	for _, kind := range []string{"service-router", "service-splitter", "service-resolver"} {
		if err := s.agent.DeleteConfig(kind, "web"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "discovery is plain", func() bool { return len(s.Routes().Stats().Routes) == 0 })
	close(stop)
	work.Wait()
	if n := sent.Load(); n < 100 {
		t.Errorf("%d requests prove little", n)
	}
}

// An upgraded connection outlives the timeout of its route.
func TestUpgradesHaveNoTimeoutOfTheRoute(t *testing.T) {
	s := newRouted(t, httpproxy.Config{}, map[string]http.HandlerFunc{"v1": func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		if line, err := rw.ReadString('\n'); err == nil {
			fmt.Fprint(rw, "echo ", line)
			_ = rw.Flush()
		}
	}}, router(`{"Destination": {"RequestTimeout": "2s"}}`))
	front := httptest.NewServer(s)
	defer front.Close()
	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /web/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(response, err)
	}
	time.Sleep(2100 * time.Millisecond) // more than the timeout
	fmt.Fprint(conn, "hello\n")
	if line, err := reader.ReadString('\n'); err != nil || line != "echo hello\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// Requests that wait for the first list are bounded as those in flight.
func TestRequestsThatWaitAreBounded(t *testing.T) {
	p, err := httpproxy.New(httpproxy.Config{
		Name: "web", Prefix: "/", Policy: "round_robin", Log: silent, MaxInFlight: 1, Service: catalog.Query{Service: "web"},
		FollowRoutes: func(catalog.Query, func(routes.Snapshot)) (stop func()) { return func() {} },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, leave := context.WithCancel(t.Context())
	var first sync.WaitGroup
	first.Go(func() { p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil).WithContext(ctx)) })
	eventually(t, "one waits, and the next is rejected", func() bool {
		gone, leave := context.WithCancel(t.Context())
		leave() // it waits no time if it is the first
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(gone))
		return p.Stats().Rejected > 0
	})
	leave()
	first.Wait()
	if p.Stats().Requests != 0 {
		t.Errorf("%+v: nothing can be sent", p.Stats())
	}
}
