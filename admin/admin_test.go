package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func build(t *testing.T, opts ...admin.Option) http.Handler {
	t.Helper()
	handler, err := admin.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return handler
}

func get(handler http.Handler, method, path string) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, fromLoopback(httptest.NewRequest(method, path, nil)))
	return answer
}

// fromLoopback makes r one that has come over loopback.
func fromLoopback(r *http.Request) *http.Request { return between(r, "127.0.0.1", "127.0.0.1") }

// between makes r one from an address to another.
func between(r *http.Request, from, to string) *http.Request {
	r.RemoteAddr, r.Host = net.JoinHostPort(from, "40000"), net.JoinHostPort(to, "9090")
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(to), Port: 9090}))
}

func TestPages(t *testing.T) {
	registry := prometheus.NewRegistry()
	sweets := prometheus.NewCounter(prometheus.CounterOpts{Name: "sweets_total"})
	registry.MustRegister(sweets)
	plain := build(t, admin.WithGatherer(registry), admin.WithStats("cache", func() any { return map[string]int{"entries": 3} }))
	profiled := build(t, admin.WithGatherer(registry), admin.WithPprof())
	warming := build(t, admin.WithReadiness(func() error { return errors.New("warming up") }))
	sick := build(t, admin.WithHealth(func() error { return errors.Join(errors.New("consul is away"), errors.New("draining")) }))
	broken := build(t, admin.WithStats("cache", func() any { return func() {} }))
	tests := []struct {
		name         string
		handler      http.Handler
		method, path string
		code         int
		body         string
	}{
		{"metrics", plain, "GET", "/metrics", 200, "sweets_total 0"},
		{"healthy", plain, "GET", "/healthz", 200, "ok\n"},
		{"unhealthy", sick, "GET", "/healthz", 503, "consul is away\ndraining\n"},
		{"ready", plain, "GET", "/readyz", 200, "ok\n"},
		{"unhealthy is not ready", sick, "GET", "/readyz", 503, "consul is away\n"},
		{"not ready", warming, "GET", "/readyz", 503, "warming up\n"},
		{"not ready and healthy", warming, "GET", "/healthz", 200, "ok\n"},
		{"stats", plain, "GET", "/debug/meshlite", 200, `"entries": 3`},
		{"stats that are no JSON", broken, "GET", "/debug/meshlite", 500, "json"},
		{"index", plain, "GET", "/", 200, "/healthz"},
		{"index with profiles", profiled, "GET", "/", 200, "/debug/pprof/"},
		{"unknown page", plain, "GET", "/nothing", 404, ""},
		{"profiles that nobody asked for", plain, "GET", "/debug/pprof/", 404, ""},
		{"list of profiles", profiled, "GET", "/debug/pprof/", 200, "goroutine"},
		{"profile", profiled, "GET", "/debug/pprof/goroutine?debug=1", 200, "goroutine profile"},
		{"command line", profiled, "GET", "/debug/pprof/cmdline", 200, "admin"},
		{"write", plain, "POST", "/healthz", 405, ""},
		{"write to a profile", profiled, "POST", "/debug/pprof/profile", 405, ""},
		{"head", plain, "HEAD", "/healthz", 200, ""},
	}
	for _, tt := range tests {
		answer := get(tt.handler, tt.method, tt.path)
		if answer.Code != tt.code || !strings.Contains(answer.Body.String(), tt.body) {
			t.Errorf("%s: %d %q, want %d with %q", tt.name, answer.Code, answer.Body, tt.code, tt.body)
		}
	}
}

func TestIndexLeavesOutWhatIsNotThere(t *testing.T) {
	if body := get(build(t), "GET", "/").Body.String(); strings.Contains(body, "pprof") {
		t.Errorf("index %q", body)
	}
}

func TestStatsAreAskedForEachTime(t *testing.T) {
	asked := 0
	handler := build(t, admin.WithStats("a", func() any { asked++; return asked }), admin.WithStats("b", func() any { return nil }))
	get(handler, "GET", "/debug/meshlite")
	var all map[string]any
	if err := json.Unmarshal(get(handler, "GET", "/debug/meshlite").Body.Bytes(), &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || all["a"] != 2.0 {
		t.Errorf("%v", all)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	some := func() any { return nil }
	for want, opts := range map[string][]admin.Option{
		"WithGatherer(nil)":                 {admin.WithGatherer(nil)},
		"WithHealth(nil)":                   {admin.WithHealth(nil)},
		"WithReadiness(nil)":                {admin.WithReadiness(nil)},
		`WithHosts("")`:                     {admin.WithHosts("web", "")},
		`WithStats("")`:                     {admin.WithStats("", some)},
		`WithStats("cache", nil)`:           {admin.WithStats("cache", nil)},
		`WithStats("cache") is given twice`: {admin.WithStats("cache", some), admin.WithStats("cache", some)},
	} {
		if _, err := admin.New(opts...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error that names %s", err, want)
		}
	}
}

func TestServerServesUntilItIsClosed(t *testing.T) {
	for name, end := range map[string]func(*admin.Server) error{
		"Close":    (*admin.Server).Close,
		"Shutdown": func(s *admin.Server) error { return s.Shutdown(t.Context()) },
	} {
		server := admin.Serve(listen(t), build(t))
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		answer, err := client.Get("http://" + server.Addr().String() + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if string(body) != "ok\n" {
			t.Errorf("%s: %q", name, body)
		}
		for range 2 {
			if err := end(server); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := client.Get("http://" + server.Addr().String() + "/healthz"); err == nil {
			t.Errorf("%s: it still answers", name)
		}
	}
}

func TestCloseReturnsWhyServingEnded(t *testing.T) {
	listener := listen(t)
	_ = listener.Close()
	server := admin.Serve(listener, build(t))
	// Closing may come before serving has begun; then nothing has failed.
	if err := server.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestShutdownCutsOffWhatTakesTooLong(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	server := admin.Serve(listen(t), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
		close(release)
	}))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answered := make(chan error)
	go func() {
		_, err := client.Get("http://" + server.Addr().String() + "/")
		answered <- err
	}()
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := server.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's error", err)
	}
	if err := <-answered; err == nil {
		t.Error("the request was answered")
	}
	<-release
}

// pipe is a listener whose one connection never says anything.
type pipe struct{ conns chan net.Conn }

func (p pipe) Accept() (net.Conn, error) {
	conn, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (p pipe) Close() error   { close(p.conns); return nil }
func (p pipe) Addr() net.Addr { return &net.TCPAddr{} }

func TestSilentClientIsHungUpOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		conns := make(chan net.Conn, 1)
		conns <- near
		server := admin.Serve(pipe{conns}, build(t))
		defer server.Close()
		start := time.Now()
		if _, err := far.Read(make([]byte, 1)); err != io.EOF || time.Since(start) > 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}
