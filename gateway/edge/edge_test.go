package edge_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/internal/racetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A limit for each caller, and who that is.
func Example() {
	e, err := edge.New(edge.Config{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Limits:         []edge.Limit{{Name: "each", Limit: 1, Period: time.Minute}},
		Logger:         silent,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	handler := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("called by", edge.CallerOf(r.Context()).Address)
	}))
	for range 2 {
		request := httptest.NewRequest("GET", "/v1/sweets", nil)
		request.RemoteAddr = "10.0.0.7:4711"
		request.Header.Set("X-Forwarded-For", "192.0.2.1")
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		fmt.Printf("%d, retry after %q\n", answer.Code, answer.Header().Get("Retry-After"))
	}
	// Output:
	// called by 192.0.2.1
	// 200, retry after ""
	// 429, retry after "60"
}

var silent = slog.New(slog.DiscardHandler)

// trusted is the network of proxies.
var trusted = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}

func newEdge(t testing.TB, config edge.Config) *edge.Edge {
	t.Helper()
	if config.Logger == nil {
		config.Logger = silent
	}
	e, err := edge.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// hello answers 200.
var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") })

// request is one from a peer, with headers in pairs.
func request(method, target, peer string, pairs ...string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	if peer != "" {
		r.RemoteAddr = peer
	}
	for i := 0; i < len(pairs); i += 2 {
		r.Header.Add(pairs[i], pairs[i+1])
	}
	return r
}

func do(handler http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

// problemOf reads the body of an error.
func problemOf(t testing.TB, w *httptest.ResponseRecorder) (p struct {
	Status       int
	Code, Detail string
	Details      []json.RawMessage
}) {
	t.Helper()
	if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("an error of type %q: %s", got, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code {
		t.Errorf("%v in %s, status %d", err, w.Body, w.Code)
	}
	return p
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// The address is that of the peer or, from the right, the first that is not trusted; the
// header that the proxies do not write does not count.
func TestTheAddressOfTheCaller(t *testing.T) {
	for _, test := range []struct {
		by, peer string
		headers  []string
		want     string
	}{
		{"", "192.0.2.1:1", nil, "192.0.2.1"},
		{"", "192.0.2.1:1", []string{"X-Forwarded-For", "198.51.100.1"}, "192.0.2.1"},
		{"", "10.0.0.1:1", []string{"X-Forwarded-For", "198.51.100.1"}, "198.51.100.1"},
		{"", "10.0.0.1:1", []string{"X-Forwarded-For", "spoofed, 198.51.100.1"}, "198.51.100.1"},
		{"", "10.0.0.1:1", []string{"X-Forwarded-For", "203.0.113.9", "X-Forwarded-For", "198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"", "[::ffff:10.0.0.1]:1", []string{"X-Forwarded-For", "[2001:db8::1]:443"}, "2001:db8::1"},
		{"", "10.0.0.1:1", []string{"X-Forwarded-For", "junk"}, "10.0.0.1"},
		{"", "10.0.0.1:1", []string{"Forwarded", "for=198.51.100.1"}, "10.0.0.1"},
		{"", "@", []string{"X-Forwarded-For", "198.51.100.1"}, "invalid IP"},
		{"forwarded", "10.0.0.1:1", []string{"Forwarded", "for=198.51.100.1"}, "198.51.100.1"},
		{"Forwarded", "10.0.0.1:1", []string{"X-Forwarded-For", "198.51.100.1"}, "10.0.0.1"},
		{"Forwarded", "10.0.0.1:1", []string{"Forwarded", `For="[2001:db8::1]:47011";proto=https`}, "2001:db8::1"},
		{"Forwarded", "10.0.0.1:1", []string{"Forwarded", `for=203.0.113.9, by=10.0.0.1; for="198.51.100.1:80"`}, "198.51.100.1"},
		{"Forwarded", "10.0.0.1:1", []string{"Forwarded", `for="open, for=198.51.100.1`}, "198.51.100.1"},
		{"Forwarded", "10.0.0.1:1", []string{"Forwarded", `for=198.51.100.1;for=203.0.113.9`}, "10.0.0.1"},
		{"Forwarded", "10.0.0.1:1", []string{"Forwarded", `for=198.51.100.1, for=unknown`}, "10.0.0.1"},
		{"Forwarded", "10.0.0.1:1", []string{"Forwarded", `for=198.51.100.1, for=_hidden, for=10.0.0.2`}, "10.0.0.2"},
		{"Forwarded", "10.0.0.1:1", []string{"Forwarded", `for=198.51.100.1`, "Forwarded", `proto=https`}, "10.0.0.1"},
		{"Forwarded", "192.0.2.1:1", []string{"Forwarded", `for=198.51.100.1`}, "192.0.2.1"},
	} {
		var got edge.Caller
		e := newEdge(t, edge.Config{TrustedProxies: trusted, ForwardedBy: test.by})
		handler := e.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = edge.CallerOf(r.Context()) }))
		do(handler, request("GET", "/", test.peer, test.headers...))
		want(t, fmt.Sprint(test.by, test.peer, test.headers), got.Address.String(), test.want)
	}
	if got := edge.CallerOf(context.Background()); got != (edge.Caller{}) {
		t.Errorf("outside of a request: %v", got)
	}
}

// Wrong fields are refused by name.
func TestMistakes(t *testing.T) {
	for want, config := range map[string]edge.Config{
		"ForwardedBy":                {ForwardedBy: "X-Real-Ip"},
		"TrustedProxies":             {TrustedProxies: []netip.Prefix{{}}},
		"Public":                     {Public: []string{"docs"}},
		"Name: give one":             {Limits: []edge.Limit{{}}},
		"two limits have it":         {Limits: []edge.Limit{{Name: "a"}, {Name: "a"}}},
		"Period":                     {Limits: []edge.Limit{{Name: "a", Period: -1}}},
		"Key: KeyOf is":              {Limits: []edge.Limit{{Name: "a", Key: "subject", KeyOf: func(*http.Request) (string, bool) { return "", false }}}},
		`Key: "ip"`:                  {Limits: []edge.Limit{{Name: "a", Key: "ip"}}},
		`"X Key" is no header`:       {Limits: []edge.Limit{{Name: "a", Key: "header X Key"}}},
		"Missing":                    {Limits: []edge.Limit{{Name: "a", Missing: "peer"}}},
		"IPv6Prefix":                 {Limits: []edge.Limit{{Name: "a", IPv6Prefix: 8}}},
		"Refund: 7":                  {Limits: []edge.Limit{{Name: "a", Refund: 7}}},
		"Success: it is":             {Limits: []edge.Limit{{Name: "a", Success: func(int) bool { return true }}}},
		"Status: 200":                {Limits: []edge.Limit{{Name: "a", Status: 200}}},
		`Paths: "v1"`:                {Limits: []edge.Limit{{Name: "a", Paths: []string{"v1"}}}},
		"MaxKeys":                    {MaxKeys: 3},
		`Headers: "Connection"`:      {Headers: []string{"Connection"}},
		`Headers: "TE"`:              {Headers: []string{"TE"}},
		`Headers: ":path"`:           {Headers: []string{":path"}},
		`Headers: "grpc-timeout"`:    {Headers: []string{"grpc-timeout"}},
		`"X-Meshlite-Subject" is`:    {Headers: []string{"X-Meshlite-Subject"}},
		`"x-forwarded-for" is`:       {Headers: []string{"x-forwarded-for"}},
		"CORS: it is off":            {CORS: edge.CORS{Credentials: true}},
		"would let any site act":     {CORS: edge.CORS{Origins: []string{"*"}, Credentials: true}},
		`"shop.example" is no`:       {CORS: edge.CORS{Origins: []string{"shop.example"}}},
		`"null" is no`:               {CORS: edge.CORS{Origins: []string{"null"}}},
		`"https://*": write`:         {CORS: edge.CORS{Origins: []string{"https://*"}}},
		`"https://*.com": write`:     {CORS: edge.CORS{Origins: []string{"https://*.com"}}},
		`"https://shop*.example": w`: {CORS: edge.CORS{Origins: []string{"https://shop*.example"}}},
		"CORS.MaxAge":                {CORS: edge.CORS{Origins: []string{"*"}, MaxAge: -1}},
		"MaxURL":                     {MaxURL: -1},
		"LogLines":                   {LogLines: -1},
		"HSTS":                       {HSTS: -1},
		"ResponseHeaders":            {ResponseHeaders: map[string]string{"a b": ""}},
	} {
		if e, err := edge.New(config); err == nil || e != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}

// A panic is 500 without its text, counted, and logged with its stack; once an answer has
// begun it is cut off instead.
func TestAPanicIsCountedAndLogged(t *testing.T) {
	var log bytes.Buffer
	e := newEdge(t, edge.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	w := do(e.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret") })), request("GET", "/", ""))
	if p := problemOf(t, w); w.Code != 500 || p.Code != "INTERNAL" || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if text := log.String(); !strings.Contains(text, "panic=secret") || !strings.Contains(text, "edge_test.go") {
		t.Errorf("the log has %s", text)
	}
	for name, handler := range map[string]http.HandlerFunc{
		"after the header":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200); panic("late") },
		"after a part of text": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "half"); panic("late") },
		"after a part of JSON": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"half":`)
			panic("late")
		},
		"on purpose": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		server := httptest.NewServer(e.Handler(handler))
		response, err := server.Client().Get(server.URL)
		if err == nil {
			_, err = io.ReadAll(response.Body)
			response.Body.Close()
		}
		if err == nil {
			t.Errorf("%s: the answer seems to be whole", name)
		}
		server.Close()
	}
	want(t, "panics", counted(t, e, "meshlite_edge_panics_total"), 4)
}

// counted is the sum of all series of a counter.
func counted(t testing.TB, collector prometheus.Collector, name string, labels ...string) (sum float64) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collector)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			var has []string
			for _, l := range metric.GetLabel() {
				has = append(has, l.GetName()+"="+l.GetValue())
			}
			all := true
			for _, l := range labels {
				all = all && strings.Contains(strings.Join(has, ",")+",", l+",")
			}
			if all {
				sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// What is too long is refused, whether it says so itself or not.
func TestSizesAreBounded(t *testing.T) {
	e := newEdge(t, edge.Config{MaxBody: 10, MaxURL: 50})
	read := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
	}))
	for _, test := range []struct {
		body   string
		length int64
		want   int
	}{{"1234567890", 10, 200}, {"12345678901", 11, 413}, {"1234567890", -1, 200}, {"12345678901", -1, 413}} {
		r := httptest.NewRequest("POST", "/", strings.NewReader(test.body))
		r.ContentLength = test.length
		want(t, fmt.Sprint(test), do(read, r).Code, test.want)
	}
	w := do(read, request("GET", "/"+strings.Repeat("a", 50), ""))
	want(t, "URL", w.Code, http.StatusRequestURITooLong)
	problemOf(t, w)
	want(t, "shorter URL", do(read, request("GET", "/"+strings.Repeat("a", 49), "")).Code, 200)
	unbounded := newEdge(t, edge.Config{MaxBody: -1}).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if n, err := io.Copy(io.Discard, r.Body); n != 5<<20 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	}))
	do(unbounded, httptest.NewRequest("POST", "/", bytes.NewReader(make([]byte, 5<<20))))
}

// Answers lack no security header, and one that the handler has set stays.
func TestSecurityHeaders(t *testing.T) {
	e := newEdge(t, edge.Config{HSTS: time.Hour, ResponseHeaders: map[string]string{"Referrer-Policy": "no-referrer", "x-frame-options": ""}})
	handler := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/own" {
			w.Header().Set("Referrer-Policy", "origin")
		}
	}))
	server := httptest.NewTLSServer(handler)
	defer server.Close()
	for path, policy := range map[string]string{"/": "no-referrer", "/own": "origin"} {
		response, err := server.Client().Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		want(t, "nosniff", response.Header.Get("X-Content-Type-Options"), "nosniff")
		want(t, "frames", response.Header.Get("X-Frame-Options"), "")
		want(t, "policy", response.Header.Get("Referrer-Policy"), policy)
		want(t, "HSTS", response.Header.Get("Strict-Transport-Security"), "max-age=3600")
	}
	plain := do(newEdge(t, edge.Config{HSTS: time.Hour}).Handler(hello), request("GET", "/", ""))
	want(t, "HSTS without TLS", plain.Header().Get("Strict-Transport-Security"), "")
	want(t, "frames by default", plain.Header().Get("X-Frame-Options"), "SAMEORIGIN")
}

// The metrics pass the linter, and nothing that a client makes up becomes a label.
func TestMetricsAreBounded(t *testing.T) {
	racetest.Skip(t)
	e := newEdge(t, edge.Config{Limits: []edge.Limit{{Name: "all", Limit: 1 << 40, Key: "header X-Key"}}})
	handler := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		edge.SetRoute(r.Context(), r.URL.Path)
		w.WriteHeader(200 + len(r.URL.Path)%700) // codes that nobody knows
	}))
	for i := range 1000 {
		do(handler, request(fmt.Sprint("M", i), fmt.Sprint("/", strings.Repeat("a", i)), "", "X-Key", fmt.Sprint(i)))
	}
	problems, err := testutil.CollectAndLint(e)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	if n := testutil.CollectAndCount(e, "meshlite_edge_requests_total"); n > 600 { // 512 routes, and each code that has a name for the others
		t.Errorf("%d series", n)
	}
	want(t, "requests", counted(t, e, "meshlite_edge_requests_total", "method=other"), 1000)
}

// Whatever a peer writes: one that is not trusted is itself, and behind a proxy nothing left of
// what the proxy has appended counts.
func FuzzForwardedHeaders(f *testing.F) {
	for _, text := range []string{"", "192.0.2.7", "for=192.0.2.7", `for="[::1]:80";by=x`, `for="open`, " ,,;=", `for="\"";for=`, "10.0.0.1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, by := range []string{"X-Forwarded-For", "Forwarded"} {
			appended := map[string]string{"X-Forwarded-For": "198.51.100.1", "Forwarded": "for=198.51.100.1"}[by]
			for _, test := range []struct{ peer, header, want string }{
				{"192.0.2.1:1", text, "192.0.2.1"},
				{"10.0.0.1:1", text + ", " + appended, "198.51.100.1"},
			} {
				var got edge.Caller
				e := newEdge(t, edge.Config{TrustedProxies: trusted, ForwardedBy: by})
				r := request("GET", "/", test.peer)
				r.Header[by] = []string{test.header}
				do(e.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = edge.CallerOf(r.Context()) })), r)
				want(t, by+" "+test.header, got.Address.String(), test.want)
			}
		}
	})
}
