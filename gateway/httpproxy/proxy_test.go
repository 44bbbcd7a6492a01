package httpproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/gateway/httpcache"
	"github.com/meshlite-go/meshlite/gateway/httpproxy"
	"github.com/meshlite-go/meshlite/gateway/problem"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func Example() {
	one := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "one") }))
	defer one.Close()
	two := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "two") }))
	defer two.Close()

	web, err := httpproxy.New(httpproxy.Config{Name: "web", Prefix: "/web/", URLs: []string{one.URL, two.URL}, Policy: "round_robin"})
	if err != nil {
		panic(err)
	}
	defer web.Close()
	answers := map[string]int{}
	for range 4 {
		w := httptest.NewRecorder()
		web.ServeHTTP(w, httptest.NewRequest("GET", "/web/", nil))
		answers[w.Body.String()]++
	}
	fmt.Println(answers)
	// Output: map[one:2 two:2]
}

// nowhere is a URL where nothing listens.
func nowhere(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// breaks reads a request and closes its connection.
func breaks(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	panic(http.ErrAbortHandler)
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func checkProblem(t *testing.T, w *httptest.ResponseRecorder, status int) {
	t.Helper()
	var body problem.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != status || body.Status != status {
		t.Errorf("the answer is %d %s, want a problem of status %d", w.Code, w.Body, status)
	}
	if after := w.Header().Get("Retry-After"); (after == "1") != (status >= 500) {
		t.Errorf("Retry-After of a %d is %q", status, after)
	}
}

func TestRequestsAreForwardedCleanly(t *testing.T) {
	var got *http.Request
	b := newBackend(t, func(_ http.ResponseWriter, r *http.Request) { got = r })
	p := newProxy(t, httpproxy.Config{
		Client: func(*http.Request) netip.Addr { return netip.MustParseAddr("192.0.2.7") },
		Header: func(*http.Request) http.Header { return http.Header{"x-meshlite-subject": {"alice"}} },
	}, b.URL+"/base/")
	for path, want := range map[string]string{
		"/web/":                   "/base/",
		"/web/a/b?c=d&e=%2F":      "/base/a/b?c=d&e=%2F",
		"/web/a%2Fb":              "/base/a%2Fb",
		"/web//a":                 "/base//a",
		"/%77eb/a%20b":            "/base/a%20b",
		"/web/%E2%82%AC/..hidden": "/base/%E2%82%AC/..hidden",
	} {
		r := httptest.NewRequest("GET", path, nil)
		r.Host = "shop.example"
		for name, value := range map[string]string{
			"Connection": "X-Hop", "X-Hop": "1", "Keep-Alive": "timeout=5", "Te": "trailers", "Proxy-Authorization": "Basic eA==",
			"X-Forwarded-For": "198.51.100.1", "X-Forwarded-Host": "evil", "X-Forwarded-Proto": "https", "X-Forwarded-Port": "1", "X-Forwarded-Prefix": "/evil", "Forwarded": "for=x", "X-Real-Ip": "x",
			"X-Meshlite-Subject": "root", "X-Meshlite-Other": "1", "Accept": "text/plain", "Cookie": "a=b",
		} {
			r.Header.Set(name, value)
		}
		for _, name := range []string{"X_Meshlite_Subject", "X_forwarded_for", "True-Client-Ip"} {
			r.Header[name] = []string{"root"}
		}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code != http.StatusOK || got.RequestURI != want {
			t.Errorf("%s is forwarded as %q with %d, want %q", path, got.RequestURI, w.Code, want)
			continue
		}
		for name, want := range map[string]string{
			"X-Hop": "", "Keep-Alive": "", "Proxy-Authorization": "", "Forwarded": "", "X-Real-Ip": "", "X-Forwarded-Port": "", "X-Meshlite-Other": "",
			"X_meshlite_subject": "", "X_forwarded_for": "", "True-Client-Ip": "",
			"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Host": "shop.example", "X-Forwarded-Proto": "http", "X-Forwarded-Prefix": "/web",
			"X-Meshlite-Subject": "alice", "Accept": "text/plain", "Cookie": "a=b", "Accept-Encoding": "",
		} {
			if value := strings.Join(got.Header.Values(name), "|"); value != want {
				t.Errorf("%s is forwarded as %q, want %q", name, value, want)
			}
		}
		if got.Host != "shop.example" {
			t.Errorf("host %q, want that of the request", got.Host)
		}
	}
	for path, want := range map[string]int{"/web/../x": 400, "/web/%2e%2e/x": 400, "/web/a/.": 400, `/web/..\x`: 400, "/web/..;/x": 400, "/other": 404} {
		if w := do(p, "GET", path, ""); w.Code != want {
			t.Errorf("%s is answered with %d, want %d", path, w.Code, want)
		}
	}
	checkProblem(t, do(p, "TRACE", "/web/", ""), http.StatusMethodNotAllowed)
}

func TestPrefixAndHostCanStay(t *testing.T) {
	var got *http.Request
	b := newBackend(t, func(_ http.ResponseWriter, r *http.Request) { got = r })
	p := newProxy(t, httpproxy.Config{KeepPrefix: true, InstanceHost: true}, b.URL)
	do(p, "GET", "/web/a", "")
	if got.RequestURI != "/web/a" || "http://"+got.Host != b.URL || got.Header.Get("X-Forwarded-Prefix") != "" {
		t.Errorf("forwarded as %s of %s", got.RequestURI, got.Host)
	}
}

// A list of two alternates, as the guides show with curl.
func TestTwoAlternate(t *testing.T) {
	one, two := newBackend(t, fine), newBackend(t, fine)
	p := newProxy(t, httpproxy.Config{}, one.URL, two.URL)
	for n := range int64(10) {
		if do(p, "GET", "/web/", ""); one.requests.Load()+two.requests.Load() != n+1 || max(one.requests.Load(), two.requests.Load()) > n/2+1 {
			t.Fatalf("after %d: %d and %d", n+1, one.requests.Load(), two.requests.Load())
		}
	}
}

func TestWhichRequestsAreSentAgain(t *testing.T) {
	small, large := strings.Repeat("x", 64<<10), strings.Repeat("x", 64<<10+1)
	for _, test := range []struct {
		method, body string
		again        bool // after it was sent
	}{
		{"GET", "", true}, {"HEAD", "", true}, {"OPTIONS", "", true}, {"PUT", small, true}, {"DELETE", "", true}, {"DELETE", "x", true},
		{"PUT", large, false}, {"POST", "", false}, {"POST", "x", false}, {"PATCH", "x", false}, {"PROPFIND", "", false},
	} {
		t.Run(fmt.Sprint(test.method, len(test.body)), func(t *testing.T) {
			var received atomic.Value
			good := newBackend(t, func(_ http.ResponseWriter, r *http.Request) {
				text, _ := io.ReadAll(r.Body)
				received.Store(string(text))
			})
			broken := newBackend(t, breaks)
			p := newProxy(t, httpproxy.Config{}, broken.URL, good.URL)
			requests := int64(0)
			for ; broken.requests.Load() == 0; requests++ { // the order is random
				w := do(p, test.method, "/web/", test.body)
				if !test.again && w.Code != http.StatusOK && test.method != "HEAD" {
					checkProblem(t, w, http.StatusBadGateway)
				}
				if test.again && (w.Code != http.StatusOK || received.Load() != test.body) {
					t.Errorf("answered with %d, and %d bytes arrived", w.Code, len(fmt.Sprint(received.Load())))
				}
			}
			want := requests
			if !test.again {
				want-- // the one that failed
			}
			if broken.requests.Load() != 1 || good.requests.Load() != want {
				t.Errorf("of %d requests the broken one had %d, the good one %d, want 1 and %d", requests, broken.requests.Load(), good.requests.Load(), want)
			}
			// What was never sent moves on, whatever it is.
			p = newProxy(t, httpproxy.Config{}, nowhere(t), good.URL)
			for p.Stats().Moved == 0 {
				if w := do(p, test.method, "/web/", test.body); w.Code != http.StatusOK || received.Load() != test.body {
					t.Errorf("with one that refuses connections: %d, and %d bytes arrived", w.Code, len(fmt.Sprint(received.Load())))
				}
			}
			if s := p.Stats(); s.Moved != 1 || s.Retries != 0 || s.Failed != 0 {
				t.Errorf("stats are %+v", s)
			}
		})
	}
}

func TestNothingIsSentAgainOnceThereIsAnAnswer(t *testing.T) {
	for _, code := range []int{500, 502, 503, 504, 429, 404} {
		bad, good := newBackend(t, status(code)), newBackend(t, fine)
		p := newProxy(t, httpproxy.Config{}, bad.URL, good.URL)
		codes, requests := map[int]int{}, 0
		for ; bad.requests.Load() == 0; requests++ {
			codes[do(p, "GET", "/web/", "").Code]++
		}
		if codes[code] != 1 || codes[200] != requests-1 || good.requests.Load() != int64(requests-1) {
			t.Errorf("%d is not passed on: %v", code, codes)
		}
	}
}

func TestTheBudgetBoundsRetries(t *testing.T) {
	broken := []string{newBackend(t, breaks).URL, newBackend(t, breaks).URL}
	const off = `{"ejection": {"disabled": true}}`
	p := newProxy(t, httpproxy.Config{RetryRatio: 0.01, PolicyConfig: json.RawMessage(off)}, broken...)
	for range 300 {
		checkProblem(t, do(p, "GET", "/web/", ""), http.StatusBadGateway)
	}
	if s := p.Stats(); s.Retries < 100 || s.Retries > 103 || s.Unbudgeted != 300-s.Retries || s.Failed != 300 || s.InFlight != 0 {
		t.Errorf("%d retries, %d left out, %d failed", s.Retries, s.Unbudgeted, s.Failed)
	}
}

func TestWhichAnswersEject(t *testing.T) {
	for code, ejects := range map[int]bool{502: true, 503: true, 504: true, 500: false, 501: false, 404: false, 400: false, 429: false} {
		bad, good := newBackend(t, status(code)), newBackend(t, fine)
		p := newProxy(t, httpproxy.Config{}, bad.URL, good.URL)
		for bad.requests.Load() < 5 {
			do(p, "GET", "/web/", "")
		}
		if n := p.Stats().Ejections[balancer.ConsecutiveFailures]; (n == 1) != ejects {
			t.Errorf("after 5 answers with %d: %d ejections, want one %v", code, n, ejects)
		}
		if !ejects {
			continue
		}
		eventually(t, "it gets no more requests", func() bool {
			before := bad.requests.Load()
			for range 10 {
				do(p, "GET", "/web/", "")
			}
			return bad.requests.Load() == before
		})
	}
}

func TestAllDownIsAProblemAndEnds(t *testing.T) {
	b := newBackend(t, fine)
	address := b.Listener.Addr().String()
	p := newProxy(t, httpproxy.Config{}, b.URL, nowhere(t))
	b.Close()
	checkProblem(t, do(p, "GET", "/web/", ""), http.StatusBadGateway)
	w := do(p, "POST", "/web/", "x")
	checkProblem(t, w, http.StatusServiceUnavailable)
	if text := w.Body.String(); strings.Contains(text, "127.0.0.1") || !strings.Contains(text, "no instance of the site web can be reached") {
		t.Errorf("the problem is %s", text)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	back := &http.Server{Handler: http.HandlerFunc(fine)}
	defer back.Close()
	go func() { _ = back.Serve(l) }()
	eventually(t, "the site is back", func() bool { return do(p, "GET", "/web/", "").Code == http.StatusOK })
}

func TestRequestsInFlightAreBounded(t *testing.T) {
	release := make(chan struct{})
	b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("x"))
		_ = http.NewResponseController(w).Flush()
		<-release
	})
	p := newProxy(t, httpproxy.Config{MaxInFlight: 3}, b.URL)
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() { do(p, "GET", "/web/", "") })
	}
	eventually(t, "three are in flight", func() bool { return b.requests.Load() == 3 })
	checkProblem(t, do(p, "GET", "/web/", ""), http.StatusServiceUnavailable)
	if s := p.Stats(); s.InFlight != 3 || s.Rejected != 1 || s.Endpoints[0].InFlight != 3 {
		t.Errorf("stats are %+v", s)
	}
	close(release)
	wait.Wait()
	if s := p.Stats(); s.InFlight != 0 || s.Endpoints[0].InFlight != 0 || do(p, "GET", "/web/", "").Code != 200 {
		t.Errorf("stats at the end are %+v", s)
	}
}

func TestTimeouts(t *testing.T) {
	release := make(chan struct{})
	mute := newBackend(t, func(http.ResponseWriter, *http.Request) { <-release })
	pausing := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("x"))
		_ = http.NewResponseController(w).Flush()
		<-release
	})
	t.Cleanup(func() { close(release) })
	config := httpproxy.Config{HeaderTimeout: 20 * time.Millisecond, BodyTimeout: 20 * time.Millisecond, Attempts: 1}
	p := newProxy(t, config, mute.URL)
	checkProblem(t, do(p, "GET", "/web/", ""), http.StatusGatewayTimeout)
	if e := p.Stats().Endpoints[0]; e.Failing == 0 || e.InFlight != 0 {
		t.Errorf("a timeout leaves %+v", e)
	}
	p = newProxy(t, config, pausing.URL)
	func() {
		defer func() {
			if recover() != http.ErrAbortHandler {
				t.Error("an answer that pauses for too long is not cut off")
			}
		}()
		r := httptest.NewRequest("GET", "/web/", nil)
		r = r.WithContext(context.WithValue(r.Context(), http.ServerContextKey, &http.Server{}))
		p.ServeHTTP(httptest.NewRecorder(), r)
	}()
	if e := p.Stats().Endpoints[0]; e.Failing == 0 || e.InFlight != 0 {
		t.Errorf("a pause leaves %+v", e)
	}
}

// Who goes away ends the request, and no instance is blamed for it.
func TestACallerThatGoesAway(t *testing.T) {
	var gone atomic.Int64
	b := newBackend(t, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		gone.Add(1)
	})
	p := newProxy(t, httpproxy.Config{}, b.URL)
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		before := b.requests.Load()
		go func() {
			for b.requests.Load() == before {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", "/web/", nil).WithContext(ctx))
		if w.Code != 499 {
			t.Errorf("status %d", w.Code)
		}
	}
	eventually(t, "the instance notices", func() bool { return gone.Load() == 10 })
	if e := p.Stats().Endpoints[0]; e.State != balancer.InRotation || e.Failing != 0 || e.InFlight != 0 {
		t.Errorf("the instance is %+v", e)
	}
}

// A body that cannot be read is the caller's fault.
func TestABrokenBodyIsTheCallers(t *testing.T) {
	b := newBackend(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	p := newProxy(t, httpproxy.Config{}, b.URL, newBackend(t, fine).URL)
	for status, err := range map[int]error{400: errors.New("malformed chunk"), 413: &http.MaxBytesError{Limit: 3}} {
		for _, method := range []string{"POST", "PUT"} {
			for _, length := range []int64{-1, 100} {
				r := httptest.NewRequest(method, "/web/", io.MultiReader(bytes.NewReader([]byte("abc")), failing{err}))
				r.ContentLength = length
				w := httptest.NewRecorder()
				p.ServeHTTP(w, r)
				checkProblem(t, w, status)
			}
		}
	}
	for _, e := range p.Stats().Endpoints {
		if e.Failing != 0 || e.State != balancer.InRotation {
			t.Errorf("an instance is blamed: %+v", e)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestUpgradesPassAndCount(t *testing.T) {
	b := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", r.Header.Get("Upgrade"))
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.Copy(conn, buffered) // an echo
	})
	p := newProxy(t, httpproxy.Config{MaxInFlight: 1}, b.URL)
	front := httptest.NewServer(p)
	defer front.Close()
	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /web/ HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(response, err)
	}
	for _, word := range []string{"hello\n", "again\n"} {
		fmt.Fprint(conn, word)
		if got, err := reader.ReadString('\n'); got != word || err != nil {
			t.Errorf("the echo of %q is %q, %v", word, got, err)
		}
	}
	if s := p.Stats(); s.InFlight != 1 || s.Endpoints[0].InFlight != 1 {
		t.Errorf("stats are %+v, want the connection in flight", s)
	}
	_ = conn.Close()
	eventually(t, "the connection has ended", func() bool { s := p.Stats(); return s.InFlight == 0 && s.Endpoints[0].InFlight == 0 })
}

// In HTTP/2 over an upgraded connection a caller would write its own X-Meshlite-Subject.
func TestOtherUpgradesAreNotForwarded(t *testing.T) {
	b := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "upgrade %q connection %q", r.Header.Values("Upgrade"), r.Header.Values("Connection"))
	})
	p := newProxy(t, httpproxy.Config{}, b.URL)
	for _, upgrade := range []string{"h2c", "websocket, h2c", "TLS/1.0"} {
		r := httptest.NewRequest("GET", "/web/", nil)
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", upgrade)
		r.Header.Set("Http2-Settings", "AAMAAABkAAQAAP__")
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if got := w.Body.String(); got != "upgrade [] connection []" {
			t.Errorf("%s: %d %s", upgrade, w.Code, got)
		}
	}
}

// What HTTP/2 lets pass and HTTP/1.1 does not have is no failure of an instance.
func TestWhatCannotBeForwardedEjectsNothing(t *testing.T) {
	b := newBackend(t, fine)
	p := newProxy(t, httpproxy.Config{}, b.URL)
	for range 20 {
		for name, spoil := range map[string]func(*http.Request){
			"method": func(r *http.Request) { r.Method = "GET /x" },
			"host":   func(r *http.Request) { r.Host = "a b" },
			"query":  func(r *http.Request) { r.URL.RawQuery = "a HTTP/1.1" },
		} {
			r := httptest.NewRequest("GET", "/web/", nil)
			spoil(r)
			w := httptest.NewRecorder()
			p.ServeHTTP(w, r)
			if w.Code != http.StatusBadRequest {
				t.Fatalf("%s: %d, want 400", name, w.Code)
			}
		}
	}
	if s := p.Stats(); s.Failed != 0 || b.requests.Load() != 0 || do(p, "GET", "/web/", "").Code != http.StatusOK {
		t.Errorf("%+v", s)
	}
}

// Bodies are streamed both ways: neither waits for its end.
func TestBodiesAreStreamed(t *testing.T) {
	b := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		w.WriteHeader(http.StatusOK)
		_ = control.Flush()
		lines := bufio.NewReader(r.Body)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprint(w, line)
			_ = control.Flush()
		}
	})
	p := newProxy(t, httpproxy.Config{}, b.URL)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		p.ServeHTTP(w, r)
	}))
	defer front.Close()
	body, write := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), "POST", front.URL+"/web/", body)
	if err != nil {
		t.Fatal(err)
	}
	response, err := front.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for n := range 3 {
		fmt.Fprintln(write, n)
		if got, err := lines.ReadString('\n'); got != fmt.Sprintln(n) || err != nil {
			t.Fatalf("line %d comes back as %q, %v", n, got, err)
		}
	}
	_ = write.Close()
}

func TestInstancesByTLS(t *testing.T) {
	b := httptest.NewUnstartedServer(http.HandlerFunc(fine))
	b.Config.ErrorLog = log.New(io.Discard, "", 0)
	b.StartTLS()
	defer b.Close()
	trusting := b.Client().Transport.(*http.Transport).TLSClientConfig
	if w := do(newProxy(t, httpproxy.Config{TLS: trusting}, b.URL), "GET", "/web/", ""); w.Code != http.StatusOK || w.Body.String() != "fine" {
		t.Errorf("by TLS: %d %s", w.Code, w.Body)
	}
	p := newProxy(t, httpproxy.Config{TLS: &tls.Config{}}, b.URL)
	checkProblem(t, do(p, "GET", "/web/", ""), http.StatusBadGateway)
}

// directory is one that a test scripts.
type directory struct{ changed func([]catalog.Instance) }

func (d *directory) follow(_ catalog.Query, changed func([]catalog.Instance)) func() {
	d.changed = changed
	return func() {}
}

func instanceAt(id string, b *backend) catalog.Instance {
	return catalog.Instance{ID: id, Address: b.Listener.Addr().String(), Weight: 1}
}

// An instance that joins starts slowly, one with a weight has its share, one that leaves has none.
func TestInstancesOfTheDirectory(t *testing.T) {
	d := &directory{}
	old, joining := newBackend(t, fine), newBackend(t, fine)
	p, err := httpproxy.New(httpproxy.Config{
		Name: "web", Prefix: "/", Service: catalog.Query{Service: "web"}, Follow: d.follow, Policy: "round_robin", Log: silent,
		PolicyConfig: json.RawMessage(`{"slowStart": {"window": "20h", "minWeightPercent": 10}}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	first := make(chan int)
	go func() { first <- do(p, "GET", "/", "").Code }() // waits for the directory
	d.changed([]catalog.Instance{instanceAt("1", old)})
	if code := <-first; code != http.StatusOK {
		t.Errorf("the first request is answered with %d", code)
	}
	d.changed([]catalog.Instance{instanceAt("1", old), instanceAt("2", joining)})
	for range 110 {
		do(p, "GET", "/", "")
	}
	if n := joining.requests.Load(); n < 9 || n > 12 {
		t.Errorf("an instance that has just joined has %d of 110 requests, want 10", n)
	}
	d.changed([]catalog.Instance{instanceAt("2", joining)})
	before := old.requests.Load()
	for range 10 {
		do(p, "GET", "/", "")
	}
	if old.requests.Load() != before {
		t.Error("an instance that has left gets requests")
	}
	picks := p.Picks()
	if picks.Service != "web" || len(picks.Endpoints) != 1 || picks.Endpoints[0].ID != "2" {
		t.Errorf("picks are %+v", picks)
	}
	d.changed(nil)
	checkProblem(t, do(p, "GET", "/", ""), http.StatusServiceUnavailable)
}

// An instance that Consul reports as critical leaves.
func TestACriticalInstanceLeaves(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	backends := map[string]*backend{}
	for i := range 4 {
		id := fmt.Sprint("web-", i)
		backends[id] = newBackend(t, fine)
		u, err := url.Parse(backends[id].URL)
		if err != nil {
			t.Fatal(err)
		}
		host, port := u.Hostname(), 0
		if _, err := fmt.Sscan(u.Port(), &port); err != nil {
			t.Fatal(err)
		}
		if err := agent.Register(consultest.Service{Name: "web", ID: id, Address: host, Port: port}); err != nil {
			t.Fatal(err)
		}
	}
	directory, err := consul.New(consul.Config{Transport: agent.Transport(), Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	builder := resolver.NewBuilder(directory, resolver.WithLogger(silent))
	p, err := httpproxy.New(httpproxy.Config{Name: "web", Prefix: "/", Service: catalog.Query{Service: "web"}, Follow: builder.Follow, Policy: "round_robin", Log: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	eventually(t, "all four have requests", func() bool {
		do(p, "GET", "/", "")
		for _, b := range backends {
			if b.requests.Load() == 0 {
				return false
			}
		}
		return true
	})
	if err := agent.SetStatus("web-2", "critical"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the critical one has left", func() bool { return len(p.Stats().Endpoints) == 3 })
	before := backends["web-2"].requests.Load()
	for range 30 {
		do(p, "GET", "/", "")
	}
	if backends["web-2"].requests.Load() != before {
		t.Error("the critical instance gets requests")
	}
}

func TestConfigIsChecked(t *testing.T) {
	follow := (&directory{}).follow
	good := httpproxy.Config{Name: "web", Prefix: "/web/", URLs: []string{"http://127.0.0.1:1"}}
	for want, change := range map[string]func(*httpproxy.Config){
		"no Name":                         func(c *httpproxy.Config) { c.Name = "" },
		`write one such as "/web/"`:       func(c *httpproxy.Config) { c.Prefix = "web" },
		"either Service or URLs":          func(c *httpproxy.Config) { c.URLs = nil },
		"either Service or":               func(c *httpproxy.Config) { c.Service.Service, c.Follow = "web", follow },
		"a Service needs Follow":          func(c *httpproxy.Config) { c.URLs, c.Service.Service = nil, "web" },
		"MaxInFlight -1":                  func(c *httpproxy.Config) { c.MaxInFlight = -1 },
		"MaxConnections -1":               func(c *httpproxy.Config) { c.MaxConnections = -1 },
		"MaxIdleConnections 300":          func(c *httpproxy.Config) { c.MaxIdleConnections = 300 },
		"IdleTimeout -1ns":                func(c *httpproxy.Config) { c.IdleTimeout = -1 },
		"ConnectTimeout 24h":              func(c *httpproxy.Config) { c.ConnectTimeout = 24 * time.Hour },
		"HeaderTimeout -1ns":              func(c *httpproxy.Config) { c.HeaderTimeout = -1 },
		"BodyTimeout -1ns":                func(c *httpproxy.Config) { c.BodyTimeout = -1 },
		"Attempts 11":                     func(c *httpproxy.Config) { c.Attempts = 11 },
		"RetryRatio 2":                    func(c *httpproxy.Config) { c.RetryRatio = 2 },
		"MaxReplay -1":                    func(c *httpproxy.Config) { c.MaxReplay = -1 },
		`"ftp://x": write it as http://`:  func(c *httpproxy.Config) { c.URLs = []string{"ftp://x"} },
		`http://u:xxxxx@x`:                func(c *httpproxy.Config) { c.URLs = []string{"http://u:secret@x"} },
		"is listed twice":                 func(c *httpproxy.Config) { c.URLs = []string{"http://x", "http://x:80/b"} },
		`policy "fastest" does not exist`: func(c *httpproxy.Config) { c.Policy = "fastest" },
		"ejection.interval 1ns":           func(c *httpproxy.Config) { c.PolicyConfig = json.RawMessage(`{"ejection": {"interval": "1ns"}}`) },
		`httpproxy: site "web": Attempts`: func(c *httpproxy.Config) { c.Attempts = -1 },
	} {
		config := good
		change(&config)
		if p, err := httpproxy.New(config); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("error %v, want one with %q", err, want)
			if p != nil {
				p.Close()
			}
		}
	}
}

// A cache is put before a site as its transport.
func TestACacheBeforeTheSite(t *testing.T) {
	answer := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("ETag", `"1"`)
		fmt.Fprint(w, r.Host, r.URL.Path)
	}
	one, two := newBackend(t, answer), newBackend(t, answer)
	cache, err := httpcache.New(httpcache.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cache.Close)
	web := newProxy(t, httpproxy.Config{Wrap: cache.Transport}, one.URL, two.URL)
	shop := newProxy(t, httpproxy.Config{Name: "shop", Prefix: "/shop/", Wrap: cache.Transport}, two.URL)
	for range 3 {
		if w := do(web, "GET", "/web/a", ""); w.Body.String() != "example.com/a" || w.Header().Get("Cache-Status") == "" {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
		r := httptest.NewRequest("GET", "/web/a", nil)
		r.Header.Set("If-None-Match", `"1"`)
		w := httptest.NewRecorder()
		if web.ServeHTTP(w, r); w.Code != http.StatusNotModified || w.Body.Len() != 0 || w.Header().Get("Age") == "" {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
	}
	if n := one.requests.Load() + two.requests.Load(); n != 1 || web.Stats().Requests != 1 {
		t.Errorf("the instances had %d requests, want 1", n)
	}
	if do(shop, "GET", "/shop/a", ""); one.requests.Load()+two.requests.Load() != 2 {
		t.Error("two sites share an answer")
	}
}
