package edge_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/meshlite-go/meshlite/gateway/edge"
)

// A page of another site changes nothing, by a form or a script, unless CORS names its origin; by
// what a browser adds to requests of any page not even then, without Credentials.
func TestPagesOfOtherSitesChangeNothing(t *testing.T) {
	off := newEdge(t, edge.Config{}).Handler(hello)
	named := newEdge(t, edge.Config{CORS: edge.CORS{Origins: []string{"https://shop.example"}}}).Handler(hello)
	anyone := newEdge(t, edge.Config{CORS: edge.CORS{Origins: []string{"*"}}, TrustedProxies: trusted}).Handler(hello)
	trusting := newEdge(t, edge.Config{CORS: edge.CORS{Origins: []string{"https://shop.example"}, Credentials: true}}).Handler(hello)
	form := func(peer string, certified bool, pairs ...string) *http.Request {
		r := request("POST", "/", peer, append(pairs, "Sec-Fetch-Site", "cross-site", "Origin", "https://shop.example")...)
		if certified {
			leaf := &x509.Certificate{}
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}
		}
		return r
	}
	for name, test := range map[string]struct {
		handler http.Handler
		request *http.Request
		status  int
	}{
		"any origin":                         {anyone, form("", false), 200},
		"any origin, with a cookie":          {anyone, form("", false, "Cookie", "session=1"), 403},
		"any origin, with a certificate":     {anyone, form("", true), 403},
		"any origin, certificate of a proxy": {anyone, form("10.0.0.1:1", true), 200},
		"a named origin, with a cookie":      {named, form("", false, "Cookie", "session=1"), 403},
		"with Credentials, with both":        {trusting, form("", true, "Cookie", "session=1"), 200},

		"a WebSocket of the same site":            {off, request("GET", "/", "", "Upgrade", "websocket", "Origin", "http://example.com"), 200},
		"a WebSocket of no browser":               {off, request("GET", "/", "", "Upgrade", "websocket"), 200},
		"a WebSocket of another site":             {off, request("GET", "/", "", "Upgrade", "WebSocket", "Origin", "https://evil.example"), 403},
		"a WebSocket of an origin that is named":  {named, request("GET", "/", "", "Upgrade", "websocket", "Origin", "https://shop.example"), 200},
		"a WebSocket of one, with its own cookie": {named, request("GET", "/", "", "Upgrade", "websocket", "Origin", "https://shop.example", "Cookie", "a=b"), 403},

		"no browser":                          {off, request("POST", "/", ""), 200},
		"the same site":                       {off, request("POST", "/", "", "Sec-Fetch-Site", "same-origin", "Origin", "https://example.com"), 200},
		"another site":                        {off, request("POST", "/", "", "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"), 403},
		"another site, by an old browser":     {off, request("POST", "/", "", "Origin", "https://evil.example"), 403},
		"another site that only reads":        {off, request("GET", "/", "", "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"), 200},
		"an origin that CORS names":           {named, request("POST", "/", "", "Sec-Fetch-Site", "cross-site", "Origin", "https://shop.example"), 200},
		"an origin that CORS does not name":   {named, request("DELETE", "/", "", "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"), 403},
		"an origin in a frame without a name": {named, request("PUT", "/", "", "Sec-Fetch-Site", "cross-site", "Origin", "null"), 403},
	} {
		if w := do(test.handler, test.request); w.Code != test.status {
			t.Errorf("%s: status %d, want %d", name, w.Code, test.status)
		}
	}
}

// Scripts of named origins may read answers, refusals included, and nobody else's.
func TestCORS(t *testing.T) {
	off := do(newEdge(t, edge.Config{}).Handler(hello), request("GET", "/", "", "Origin", "https://shop.example"))
	want(t, "by default", off.Header().Get("Access-Control-Allow-Origin"), "")
	e := newEdge(t, edge.Config{
		CORS:   edge.CORS{Origins: []string{"https://shop.example", "https://*.shop.example"}, Credentials: true},
		Limits: []edge.Limit{{Name: "none", Paths: []string{"/refused"}}},
	})
	handler := e.Handler(hello)
	for origin, allowed := range map[string]string{
		"https://shop.example": "https://shop.example", "https://m.shop.example": "https://m.shop.example",
		"http://shop.example": "", "https://shop.example.evil": "", "https://evilshop.example": "", "null": "",
	} {
		for path, code := range map[string]int{"/": 200, "/refused": 429} {
			w := do(handler, request("GET", path, "", "Origin", origin))
			want(t, origin+path, w.Code, code)
			want(t, origin+path+": allowed", w.Header().Get("Access-Control-Allow-Origin"), allowed)
			if allowed != "" && !strings.Contains(strings.ToLower(w.Header().Get("Access-Control-Expose-Headers")), "retry-after") {
				t.Errorf("exposed is %v", w.Header())
			}
		}
		preflight := do(handler, request("OPTIONS", "/refused", "", "Origin", origin, "Access-Control-Request-Method", "PATCH", "Access-Control-Request-Headers", "authorization,content-type"))
		want(t, origin+": preflight", preflight.Code, 204)
		want(t, origin+": preflight allows", preflight.Header().Get("Access-Control-Allow-Origin"), allowed)
	}
	any := do(newEdge(t, edge.Config{CORS: edge.CORS{Origins: []string{"*"}}}).Handler(hello), request("GET", "/", "", "Origin", "https://a.example"))
	want(t, "any", any.Header().Get("Access-Control-Allow-Origin"), "*")
	want(t, "any: credentials", any.Header().Get("Access-Control-Allow-Credentials"), "")
}

// Long answers are compressed as the client accepts it, unless they say otherwise or are a
// stream, a part or encoded; the ETag of a compressed one is weak.
func TestCompression(t *testing.T) {
	long := strings.Repeat("sweet ", 1000)
	for name, test := range map[string]struct {
		accept  string
		method  string
		status  int
		body    string
		headers []string
		want    string
	}{
		"gzip":              {"gzip", "", 0, long, nil, "gzip"},
		"zstd":              {"gzip, zstd", "", 0, long, nil, "zstd"},
		"by weight":         {"gzip, zstd;q=0.1", "", 0, long, nil, "gzip"},
		"none":              {"", "", 0, long, nil, ""},
		"br only":           {"br", "", 0, long, nil, ""},
		"refused":           {"gzip;q=0", "", 0, long, nil, ""},
		"an error":          {"gzip", "", 404, long, []string{"Content-Type", "application/problem+json"}, "gzip"},
		"with its length":   {"gzip", "", 0, long, []string{"Content-Length", fmt.Sprint(len(long))}, "gzip"},
		"short":             {"gzip", "", 0, "short", nil, ""},
		"images":            {"gzip", "", 0, long, []string{"Content-Type", "image/png"}, ""},
		"events":            {"gzip", "", 0, long, []string{"Content-Type", "text/event-stream"}, ""},
		"lines of JSON":     {"gzip", "", 0, long, []string{"Content-Type", "application/x-ndjson"}, ""},
		"a part":            {"gzip", "", 206, long, []string{"Content-Range", "bytes 0-1/2"}, ""},
		"encoded":           {"gzip", "", 0, long, []string{"Content-Encoding", "br"}, "br"},
		"not to be changed": {"gzip", "", 0, long, []string{"Cache-Control", "private, No-Transform"}, ""},
		"unmodified":        {"gzip", "", 304, "", nil, ""},
		"HEAD":              {"gzip", "HEAD", 0, "", nil, ""},
	} {
		handler := newEdge(t, edge.Config{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			w.Header().Set("ETag", `"v1"`)
			for i := 0; i < len(test.headers); i += 2 {
				w.Header().Set(test.headers[i], test.headers[i+1])
			}
			if test.status != 0 {
				w.WriteHeader(test.status)
			}
			if test.body != "" {
				fmt.Fprint(w, test.body[:1])
				fmt.Fprint(w, test.body[1:])
			}
		}))
		r := request("GET", "/", "", "Accept-Encoding", test.accept)
		if test.method != "" {
			r.Method = test.method
		}
		w := do(handler, r)
		want(t, name+": encoding", w.Header().Get("Content-Encoding"), test.want)
		want(t, name+": status", w.Code, max(test.status, 200))
		ours := test.want == "gzip" || test.want == "zstd"
		want(t, name+": ETag", w.Header().Get("ETag"), map[bool]string{true: `W/"v1"`, false: `"v1"`}[ours])
		want(t, name+": body", unpacked(t, w), test.body)
		if length := w.Header().Get("Content-Length"); ours && length != "" {
			t.Errorf("%s: Content-Length %s", name, length)
		}
		if test.method == "" && !strings.Contains(w.Header().Get("Vary"), "Accept-Encoding") {
			t.Errorf("%s: Vary %q", name, w.Header().Get("Vary"))
		}
	}
	plain := do(newEdge(t, edge.Config{NoCompression: true}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, long) })), request("GET", "/", "", "Accept-Encoding", "gzip"))
	want(t, "turned off", plain.Body.Len(), len(long))
}

func unpacked(t testing.TB, w *httptest.ResponseRecorder) string {
	t.Helper()
	var r io.Reader = bytes.NewReader(w.Body.Bytes())
	switch w.Header().Get("Content-Encoding") {
	case "gzip":
		packed, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		r = packed
	case "zstd":
		packed, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		defer packed.Close()
		r = packed
	}
	return readAll(t, r)
}

// Each event of a stream arrives when it is flushed, and its header before the first.
func TestStreamsAreNotHeldBack(t *testing.T) {
	for _, media := range []string{"text/event-stream", "application/x-ndjson", "application/json"} {
		next := make(chan string)
		server := httptest.NewServer(newEdge(t, edge.Config{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", media)
			w.WriteHeader(http.StatusOK)
			if media != "application/json" {
				w.(http.Flusher).Flush()
			}
			for text := range next {
				fmt.Fprintln(w, text)
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
			}
		})))
		if media == "application/json" { // whose header comes with the first part
			go func() { next <- "first" }()
		}
		response, err := server.Client().Get(server.URL) // accepts gzip
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(response.Body)
		for i, text := range []string{"first", "second"} {
			if i > 0 || media != "application/json" {
				next <- text
			}
			if got, err := lines.ReadString('\n'); got != text+"\n" || err != nil {
				t.Errorf("%s: %q, %v", media, got, err)
			}
		}
		close(next)
		response.Body.Close()
		server.Close()
	}
}

// tracer has one span.
type tracer struct {
	route  string
	status int
}

type spanKey struct{}

func (tr *tracer) StartRequest(r *http.Request) (context.Context, func(string, int)) {
	return context.WithValue(r.Context(), spanKey{}, r.Header.Get("Traceparent")), func(route string, status int) { tr.route, tr.status = route, status }
}

func (*tracer) Exemplar(ctx context.Context) (string, bool) {
	id, _ := ctx.Value(spanKey{}).(string)
	return strings.TrimPrefix(id, "00-"), id != ""
}

// The log has a line for each request, with the names that the log of calls has; nothing
// private is in it unless asked for.
//
// Case logs
func TestTheAccessLog(t *testing.T) {
	line := func(config edge.Config, level slog.Level, handler http.Handler, r *http.Request) map[string]any {
		t.Helper()
		var buffer bytes.Buffer
		config.Logger = slog.New(slog.NewJSONHandler(&buffer, &slog.HandlerOptions{Level: level}))
		config.TrustedProxies = trusted
		func() {
			defer func() { _ = recover() }()
			do(newEdge(t, config).Handler(handler), r)
		}()
		if buffer.Len() == 0 {
			return nil
		}
		got := map[string]any{}
		if err := json.Unmarshal(buffer.Bytes(), &got); err != nil {
			t.Fatalf("%v in %s", err, buffer.String())
		}
		delete(got, "time")
		delete(got, "duration")
		return got
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/{name}", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		fmt.Fprint(w, "hello")
	})
	post := func() *http.Request {
		r := request("POST", "/v1/secret?token=secret", "10.0.0.1:1", "X-Forwarded-For", "192.0.2.1", "Authorization", "Bearer alice", "Traceparent", "00-abc")
		r.Body = io.NopCloser(strings.NewReader("123"))
		return r
	}
	tr := &tracer{}
	config := edge.Config{Verifier: verifier{}, Tracer: tr}
	wantLine := func(what string, got map[string]any, want string) {
		t.Helper()
		b, _ := json.Marshal(got)
		if string(b) != want {
			t.Errorf("%s:\n%s, want\n%s", what, b, want)
		}
	}
	if got := line(config, slog.LevelInfo, mux, post()); got != nil {
		t.Errorf("a success is at debug: %v", got)
	}
	wantLine("success", line(config, slog.LevelDebug, mux, post()),
		`{"code":200,"level":"DEBUG","method":"POST","msg":"request","peer":"192.0.2.1","received":3,"route":"/v1/{name}","sent":5,"side":"edge","trace_id":"abc"}`)
	want(t, "span", fmt.Sprint(tr.route, tr.status), "/v1/{name}200")
	config.LogPath, config.LogSubject = true, true
	wantLine("all", line(config, slog.LevelDebug, mux, post()),
		`{"caller":"alice","code":200,"level":"DEBUG","method":"POST","msg":"request","path":"/v1/secret","peer":"192.0.2.1","received":3,"route":"/v1/{name}","sent":5,"side":"edge","trace_id":"abc"}`)
	wantLine("certificate", line(edge.Config{}, slog.LevelDebug, hello, certified(request("GET", "/", "192.0.2.1:1"), true)),
		`{"caller":"spiffe://mesh/phone","code":200,"level":"DEBUG","method":"GET","msg":"request","peer":"192.0.2.1","received":0,"route":"","sent":5,"side":"edge"}`)
	wantLine("refused", line(edge.Config{NoCompression: true, Limits: []edge.Limit{{Name: "none"}}}, slog.LevelDebug, hello, request("BREW", "/", "192.0.2.1:1")),
		`{"code":429,"level":"DEBUG","limit":"none","limit_result":"refused","method":"other","msg":"request","peer":"192.0.2.1","received":0,"refused":"limit","route":"","sent":111,"side":"edge"}`)
	failing := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	wantLine("failure", line(edge.Config{}, slog.LevelInfo, failing, request("GET", "/", "192.0.2.1:1")),
		`{"code":502,"level":"WARN","method":"GET","msg":"request","peer":"192.0.2.1","received":0,"route":"","sent":0,"side":"edge"}`)
	left, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("left"))
	if got := line(edge.Config{}, slog.LevelInfo, failing, request("GET", "/", "").WithContext(left)); got != nil {
		t.Errorf("of a client that has left: %v", got)
	}
}

// A flood of failures writes no flood of lines, and says how many it left out.
func TestTheAccessLogIsBounded(t *testing.T) {
	var log bytes.Buffer
	e := newEdge(t, edge.Config{Logger: slog.New(slog.NewTextHandler(&log, nil)), LogLines: 3})
	handler := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	for range 1000 {
		do(handler, request("GET", "/", ""))
	}
	if n := strings.Count(log.String(), "\n"); n < 3 || n > 100 {
		t.Errorf("%d lines", n)
	}
}
