package edge_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
)

// limited is a handler with one limit, by default of 1 an hour for each address.
func limited(t testing.TB, l edge.Limit, change ...func(*edge.Config)) (*edge.Edge, http.Handler) {
	t.Helper()
	if l.Name == "" {
		l.Name = "one"
	}
	if l.Limit == 0 {
		l.Limit = 1
	}
	if l.Period == 0 {
		l.Period = time.Hour
	}
	config := edge.Config{TrustedProxies: trusted, Limits: []edge.Limit{l}}
	for _, c := range change {
		c(&config)
	}
	e := newEdge(t, config)
	return e, e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status := r.Header.Get("Status"); status != "" {
			var code int
			fmt.Sscan(status, &code)
			w.WriteHeader(code)
		}
	}))
}

// codes are those of n requests.
func codes(handler http.Handler, n int, peer string, pairs ...string) string {
	var all []string
	for range n {
		all = append(all, fmt.Sprint(do(handler, request("GET", "/v1/sweets", peer, pairs...)).Code))
	}
	return strings.Join(all, " ")
}

// Case E6: 429 has Retry-After and RateLimit fields; a spoofed X-Forwarded-For or Forwarded from an untrusted peer gets 0 of 10,000 fresh buckets; IPv6 counts by /64.
func TestARefusalSaysWhenToComeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, fields := range []bool{false, true} {
			e := newEdge(t, edge.Config{Fields: fields, Limits: []edge.Limit{
				{Name: "minute", Limit: 2, Period: time.Minute},
				{Name: `odd "name"`, Limit: 3, Period: 1500 * time.Millisecond},
				{Name: "shadow", Limit: 1, Period: time.Hour, Shadow: true},
			}})
			var read []ratelimit.Standing
			handler := e.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { read = edge.Standings(r.Context()) }))
			const policy = `"minute";q=2;w=60, "odd \"name\"";q=4;w=2`
			first := do(handler, request("GET", "/", "192.0.2.1:1"))
			want(t, "first", first.Code, 200)
			if fields {
				want(t, "its policy", first.Header().Get("RateLimit-Policy"), policy)
				want(t, "its state", first.Header().Get("RateLimit"), `"minute";r=1;t=30, "odd \"name\"";r=2;t=1`)
			} else {
				want(t, "its fields", first.Header().Get("RateLimit-Policy")+first.Header().Get("RateLimit"), "")
			}
			want(t, "what the handler reads", read[0], ratelimit.Standing{
				Name: "minute", Limit: ratelimit.Limit{Calls: 2, Period: time.Minute, Burst: 2}, Remaining: 1, Reset: 30 * time.Second})
			want(t, "how many", len(read), 2)
			do(handler, request("GET", "/", "192.0.2.1:1"))
			time.Sleep(500 * time.Millisecond)
			refused := do(handler, request("GET", "/", "192.0.2.1:1"))
			p := problemOf(t, refused)
			want(t, "third", refused.Code, http.StatusTooManyRequests)
			want(t, "code", p.Code, "RESOURCE_EXHAUSTED")
			want(t, "detail", p.Detail, `limit "minute" reached (2 per 1m0s by address): try again in 30 s`)
			want(t, "details", string(p.Details[0]), `{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"30s"}`)
			want(t, "Retry-After", refused.Header().Get("Retry-After"), "30") // 29.5 s, never below
			want(t, "policy", refused.Header().Get("RateLimit-Policy"), policy)
			want(t, "state", refused.Header().Get("RateLimit"), `"minute";r=0;t=60, "odd \"name\"";r=2;t=1`)
			time.Sleep(30 * time.Second)
			want(t, "after Retry-After", do(handler, request("GET", "/", "192.0.2.1:1")).Code, 200)
			want(t, "shadowed", counted(t, e, "meshlite_edge_limited_total", "limit=shadow", "result=shadowed"), 2)
			want(t, "refused", counted(t, e, "meshlite_edge_limited_total", "result=refused"), 1)
			want(t, "refused requests", counted(t, e, "meshlite_edge_refused_total", "reason=limit"), 1)
		}
	})
}

// Neither spoofed headers nor other addresses of an IPv6 /64 are new keys.
//
// Case E6
func TestNobodyGetsFreshBuckets(t *testing.T) {
	spoofed := func(i int) string { return fmt.Sprintf("198.51.%d.%d", i/250, i%250) }
	for name, test := range map[string]struct {
		by  string
		ask func(i int) *http.Request
	}{
		"untrusted peer": {"", func(i int) *http.Request {
			return request("GET", "/", "192.0.2.1:1", "X-Forwarded-For", spoofed(i), "Forwarded", "for="+spoofed(i), "X-Real-Ip", spoofed(i))
		}},
		"left of a proxy's": {"", func(i int) *http.Request {
			return request("GET", "/", "10.0.0.1:1", "X-Forwarded-For", spoofed(i)+", 192.0.2.1")
		}},
		"in a line of its own": {"", func(i int) *http.Request {
			return request("GET", "/", "10.0.0.1:1", "X-Forwarded-For", spoofed(i), "X-Forwarded-For", "192.0.2.1")
		}},
		"in the header that proxies do not write": {"", func(i int) *http.Request {
			return request("GET", "/", "10.0.0.1:1", "Forwarded", "for="+spoofed(i), "X-Forwarded-For", "192.0.2.1")
		}},
		"the other way round": {"Forwarded", func(i int) *http.Request {
			return request("GET", "/", "10.0.0.1:1", "X-Forwarded-For", spoofed(i), "Forwarded", "for=192.0.2.1")
		}},
		"Forwarded, untrusted peer": {"Forwarded", func(i int) *http.Request {
			return request("GET", "/", "192.0.2.1:1", "Forwarded", "for="+spoofed(i))
		}},
		"Forwarded, quotes left open": {"Forwarded", func(i int) *http.Request {
			return request("GET", "/", "10.0.0.1:1", "Forwarded", fmt.Sprintf(`for=%s;by="x, for=192.0.2.1`, spoofed(i)))
		}},
		"rotating inside a /64": {"", func(i int) *http.Request {
			return request("GET", "/", fmt.Sprintf("[2001:db8::%x:%x]:1", i+1, i))
		}},
		"rotating, through a proxy": {"", func(i int) *http.Request {
			return request("GET", "/", "10.0.0.1:1", "X-Forwarded-For", fmt.Sprintf("2001:db8::%x:%x", i+1, i))
		}},
		"rotating ports": {"", func(i int) *http.Request { return request("GET", "/", fmt.Sprint("192.0.2.1:", i+1)) }},
	} {
		_, handler := limited(t, edge.Limit{}, func(c *edge.Config) { c.ForwardedBy = test.by; c.MaxKeys = 64 })
		fresh, many := 0, 1000
		if name == "untrusted peer" || name == "rotating inside a /64" {
			many = 10_000
		}
		for i := range many {
			if do(handler, test.ask(i)).Code == 200 {
				fresh++
			}
		}
		want(t, name+": admitted", fresh, 1)
	}
	_, handler := limited(t, edge.Limit{})
	for _, peer := range []string{"192.0.2.1:1", "192.0.2.2:1", "[2001:db8:0:1::1]:1", "[2001:db8:0:2::1]:1"} {
		want(t, peer, codes(handler, 2, peer), "200 429")
	}
	want(t, "mapped", codes(handler, 1, "[::ffff:192.0.2.1]:1"), "429")
}

// Each option of express-rate-limit has its place, row by row, over HTTP.
//
// Case E6
func TestTheTableOfExpressRateLimit(t *testing.T) {
	type row struct {
		option string
		limit  edge.Limit
		change func(*edge.Config)
		then   func(t *testing.T, e *edge.Edge, get func(pairs ...string) *http.Response)
	}
	status := func(t *testing.T, what string, r *http.Response, code int) {
		t.Helper()
		want(t, what, r.StatusCode, code)
	}
	rows := []row{
		{"windowMs", edge.Limit{Period: time.Hour}, nil, func(t *testing.T, _ *edge.Edge, get func(...string) *http.Response) {
			get()
			want(t, "time", get().Header.Get("Retry-After"), "3600")
		}},
		{"limit, a number", edge.Limit{Limit: 2}, nil, func(t *testing.T, _ *edge.Edge, get func(...string) *http.Response) {
			status(t, "first", get(), 200)
			status(t, "second", get(), 200)
			status(t, "third", get(), 429)
		}},
		{"limit, a function", edge.Limit{Rate: func(r *http.Request, l ratelimit.Limit) ratelimit.Limit {
			if r.Header.Get("Plan") == "gold" {
				l.Calls = 1000
			}
			return l
		}}, nil, func(t *testing.T, _ *edge.Edge, get func(...string) *http.Response) {
			status(t, "first", get("Plan", "gold"), 200)
			status(t, "second", get("Plan", "gold"), 200)
		}},
		{"message, statusCode", edge.Limit{Message: "slow down", Status: 503}, nil, func(t *testing.T, _ *edge.Edge, get func(...string) *http.Response) {
			get()
			refused := get()
			status(t, "refused", refused, 503)
			want(t, "body", body(t, refused), `{"title":"Service Unavailable","status":503,"detail":"slow down","code":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"3600s"}]}`)
		}},
		{"handler", edge.Limit{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "own", 420) })}, nil, func(t *testing.T, _ *edge.Edge, get func(...string) *http.Response) {
			get()
			refused := get()
			status(t, "refused", refused, 420)
			want(t, "body", body(t, refused), "own\n")
			want(t, "its header", refused.Header.Get("Retry-After"), "3600")
		}},
		{"legacyHeaders: none", edge.Limit{}, func(c *edge.Config) { c.Fields = true }, func(t *testing.T, _ *edge.Edge, get func(...string) *http.Response) {
			for range 2 {
				for name := range get().Header {
					if strings.HasPrefix(name, "X-Ratelimit") {
						t.Errorf("there is %s", name)
					}
				}
			}
		}},
		{"standardHeaders", edge.Limit{}, func(c *edge.Config) { c.Fields = true }, func(t *testing.T, _ *edge.Edge, get func(...string) *http.Response) {
			for range 2 {
				answer := get()
				want(t, "state", answer.Header.Get("RateLimit"), `"one";r=0;t=3600`)
				want(t, "policy", answer.Header.Get("RateLimit-Policy"), `"one";q=1;w=3600`)
			}
		}},
		{"identifier", edge.Limit{Name: "mine"}, nil, func(t *testing.T, _ *edge.Edge, get func(...string) *http.Response) {
			get()
			want(t, "policy", get().Header.Get("RateLimit-Policy"), `"mine";q=1;w=3600`)
		}},
		{"requestPropertyName", edge.Limit{}, nil, func(t *testing.T, _ *edge.Edge, get func(...string) *http.Response) {
			want(t, "what the handler read", get().Header.Get("Left"), "one 0")
		}},
		{"keyGenerator", edge.Limit{KeyOf: func(r *http.Request) (string, bool) { return r.URL.Query().Get("user"), true }}, nil, func(t *testing.T, e *edge.Edge, get func(...string) *http.Response) {
			status(t, "without user", get(), 200)
			standing, err := e.Standing("one", "alice")
			want(t, "alice's", fmt.Sprint(standing.Remaining, err), "1 <nil>")
		}},
		{"keyGenerator: a header", edge.Limit{Key: "header X-Api-Key"}, nil, func(t *testing.T, _ *edge.Edge, get func(...string) *http.Response) {
			status(t, "a", get("X-Api-Key", "a"), 200)
			status(t, "b", get("X-Api-Key", "b"), 200)
			status(t, "a again", get("X-Api-Key", "a"), 429)
			status(t, "none counts by address", get(), 200)
			status(t, "none again", get(), 429)
		}},
		{"ipv6Subnet", edge.Limit{IPv6Prefix: 48}, nil, func(t *testing.T, e *edge.Edge, _ func(...string) *http.Response) {
			handler := e.Handler(hello)
			want(t, "one /48", codes(handler, 1, "[2001:db8:1:1::1]:1")+codes(handler, 1, "[2001:db8:1:2::1]:1"), "200429")
			want(t, "another", codes(handler, 1, "[2001:db8:2:1::1]:1"), "200")
		}},
		{"trust proxy", edge.Limit{}, nil, func(t *testing.T, e *edge.Edge, _ func(...string) *http.Response) {
			handler := e.Handler(hello)
			want(t, "one", codes(handler, 2, "10.0.0.1:1", "X-Forwarded-For", "192.0.2.1"), "200 429")
			want(t, "another", codes(handler, 1, "10.0.0.1:1", "X-Forwarded-For", "192.0.2.2"), "200")
		}},
		{"skip", edge.Limit{Skip: func(r *http.Request) bool { return r.Header.Get("Skip") != "" }}, nil, func(t *testing.T, _ *edge.Edge, get func(...string) *http.Response) {
			get()
			status(t, "skipped", get("Skip", "1"), 200)
			status(t, "not skipped", get(), 429)
		}},
		{"skipFailedRequests", edge.Limit{Refund: edge.RefundFailed}, nil, func(t *testing.T, _ *edge.Edge, get func(...string) *http.Response) {
			status(t, "failed", get("Status", "500"), 500)
			status(t, "failed", get("Status", "404"), 404)
			status(t, "succeeds", get(), 200)
			status(t, "second", get(), 429)
		}},
		{"skipSuccessfulRequests", edge.Limit{Refund: edge.RefundSucceeded}, nil, func(t *testing.T, _ *edge.Edge, get func(...string) *http.Response) {
			status(t, "succeeds", get(), 200)
			status(t, "succeeds", get(), 200)
			status(t, "fails", get("Status", "401"), 401)
			status(t, "second", get(), 429)
		}},
		{"requestWasSuccessful", edge.Limit{Refund: edge.RefundFailed, Success: func(status int) bool { return status == 404 }}, nil, func(t *testing.T, _ *edge.Edge, get func(...string) *http.Response) {
			status(t, "counts as failed", get(), 200)
			status(t, "counts as a success", get("Status", "404"), 404)
			status(t, "second", get(), 429)
		}},
		{"getKey, resetKey", edge.Limit{}, nil, func(t *testing.T, e *edge.Edge, get func(...string) *http.Response) {
			get()
			standing, err := e.Standing("one", "127.0.0.1")
			want(t, "left", fmt.Sprint(standing.Name, standing.Remaining, err), "one0 <nil>")
			want(t, "reset", e.Reset("one", "127.0.0.1"), nil)
			status(t, "after it", get(), 200)
			status(t, "second", get(), 429)
			_, err = e.Standing("two", "127.0.0.1")
			want(t, "another limit", fmt.Sprint(err), `edge: no limit is called "two"`)
			want(t, "no address", fmt.Sprint(e.Reset("one", "alice")), `edge: limit "one" counts by address, and "alice" is none`)
		}},
	}
	for _, r := range rows {
		t.Run(r.option, func(t *testing.T) {
			changes := []func(*edge.Config){func(c *edge.Config) {}}
			if r.change != nil {
				changes = append(changes, r.change)
			}
			e, _ := limited(t, r.limit, changes...)
			server := httptest.NewServer(e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for _, s := range edge.Standings(r.Context()) {
					w.Header().Add("Left", fmt.Sprint(s.Name, " ", s.Remaining))
				}
				if code := 0; r.Header.Get("Status") != "" {
					fmt.Sscan(r.Header.Get("Status"), &code)
					w.WriteHeader(code)
				}
			})))
			defer server.Close()
			r.then(t, e, func(pairs ...string) *http.Response {
				ask, err := http.NewRequest("GET", server.URL+"/v1/sweets", nil)
				if err != nil {
					t.Fatal(err)
				}
				for i := 0; i < len(pairs); i += 2 {
					ask.Header.Set(pairs[i], pairs[i+1])
				}
				response, err := server.Client().Do(ask)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { response.Body.Close() })
				return response
			})
		})
	}
}

func body(t testing.TB, response *http.Response) string {
	t.Helper()
	var b strings.Builder
	if _, err := fmt.Fprint(&b, readAll(t, response.Body)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Limits are for some paths or methods; no other spelling of a path escapes them.
func TestLimitsOfPaths(t *testing.T) {
	_, handler := limited(t, edge.Limit{Paths: []string{"/v1/orders", "/admin/"}, Methods: []string{"GET"}})
	for _, test := range []struct {
		method, target string
		want           int
	}{
		{"GET", "/v1/orders", 200}, {"GET", "/v1/orders", 429}, {"GET", "/v1/%6frders", 429}, {"GET", "/v1%2Forders", 429},
		{"GET", "/v1/orders?x", 429}, {"GET", "/admin/x", 429}, {"POST", "/v1/orders", 200}, {"GET", "/v1/orders/7", 200},
		{"HEAD", "/v1/orders", 429}, {"GET", "//v1///orders", 429}, {"GET", "//admin/x", 429},
		{"GET", "/admin", 200}, {"GET", "/x/..%2fadmin/", 400}, {"GET", "/x/%2e%2e/admin/", 400},
	} {
		want(t, test.method+" "+test.target, do(handler, request(test.method, test.target, "192.0.2.1:1")).Code, test.want)
	}
}

// A request that one limit refuses costs nothing on the others, before or after its subject is
// known.
func TestARefusedRequestCostsNothingElsewhere(t *testing.T) {
	e := newEdge(t, edge.Config{Verifier: verifier{}, Limits: []edge.Limit{
		{Name: "address", Limit: 10, Period: time.Hour},
		{Name: "subject", Limit: 1, Period: time.Hour, Key: edge.BySubject},
		{Name: "key", Limit: 2, Period: time.Hour, Key: "header X-Key", Missing: edge.MissingRefused, Paths: []string{"/keyed"}},
	}})
	handler := e.Handler(hello)
	left := func(name, value string, remaining uint64) {
		t.Helper()
		standing, err := e.Standing(name, value)
		want(t, "left of "+name, fmt.Sprint(standing.Remaining, err), fmt.Sprint(remaining, " <nil>"))
	}
	ask := func(path, token string, code int, pairs ...string) {
		t.Helper()
		want(t, path+" "+token, do(handler, request("GET", path, "192.0.2.1:1", append(pairs, "Authorization", "Bearer "+token)...)).Code, code)
	}
	ask("/", "alice", 200)
	left("address", "192.0.2.1", 9)
	ask("/", "alice", 429)
	left("address", "192.0.2.1", 9)
	ask("/keyed", "bob", 400)
	left("address", "192.0.2.1", 9)
	ask("/keyed", "bob", 200, "X-Key", "k")
	ask("/keyed", "bob", 429, "X-Key", "k")
	left("address", "192.0.2.1", 8)
	left("key", "k", 1)
	// What a token costs to verify counts by address.
	ask("/", "wrong", 401)
	left("address", "192.0.2.1", 7)
	if n := counted(t, e, "meshlite_edge_refused_total", "reason=key"); n != 1 {
		t.Errorf("%v requests without the key", n)
	}
}

// Requests without the key count by address, together or not at all; a subject never counts
// with an address that looks like it.
func TestRequestsWithoutTheKey(t *testing.T) {
	verified := func(c *edge.Config) { c.Verifier = verifier{} }
	_, handler := limited(t, edge.Limit{Key: edge.BySubject}, verified)
	want(t, "an address", codes(handler, 2, "192.0.2.1:1"), "200 429")
	want(t, "another", codes(handler, 2, "192.0.2.2:1"), "200 429")
	want(t, "a subject", codes(handler, 2, "192.0.2.1:1", "Authorization", "Bearer 192.0.2.2"), "200 429")
	_, handler = limited(t, edge.Limit{Key: edge.BySubject, Missing: edge.MissingShared}, verified)
	want(t, "shared", codes(handler, 1, "192.0.2.1:1")+" "+codes(handler, 1, "192.0.2.2:1"), "200 429")
	want(t, "a subject beside them", codes(handler, 2, "192.0.2.1:1", "Authorization", "Bearer alice"), "200 429")
	_, handler = limited(t, edge.Limit{Key: "header X-Key", Missing: edge.MissingRefused})
	want(t, "refused", codes(handler, 1, "192.0.2.1:1"), "400")
	_, handler = limited(t, edge.Limit{Key: "header X-Key", Missing: edge.MissingRefused, Shadow: true})
	want(t, "in shadow", codes(handler, 3, "192.0.2.1:1"), "200 200 200")
}

// What costs more counts as more, and what costs more than the burst can never come.
func TestCosts(t *testing.T) {
	_, handler := limited(t, edge.Limit{Limit: 3, Cost: func(r *http.Request) uint64 { return uint64(len(r.Header.Get("Cost"))) }})
	for cost, want := range map[string]string{"": "200 200"} {
		if got := codes(handler, 2, "192.0.2.9:1", "Cost", cost); got != want {
			t.Errorf("%q: %s", cost, got)
		}
	}
	want(t, "two, then two", codes(handler, 2, "192.0.2.1:1", "Cost", "xx"), "200 429")
	never := do(handler, request("GET", "/", "192.0.2.2:1", "Cost", "xxxx"))
	want(t, "four", never.Code, 429)
	want(t, "its Retry-After", never.Header().Get("Retry-After"), "")
	if p := problemOf(t, never); !strings.Contains(p.Detail, "more than its burst") {
		t.Error(p.Detail)
	}
}
