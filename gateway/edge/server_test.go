package edge_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

// running is a server that serves until the test ends.
type running struct {
	*edge.Server
	t       testing.TB
	address string
	stop    func() error // and wait
}

func serve(t testing.TB, handler http.Handler, config edge.ServerConfig) *running {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, listener, handler, config)
}

func serveOn(t testing.TB, listener net.Listener, handler http.Handler, config edge.ServerConfig) *running {
	t.Helper()
	if config.Logger == nil {
		config.Logger = silent
	}
	if config.Drain == 0 {
		config.Drain = -1
	}
	server, err := edge.NewServer(handler, config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()
	stop := sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = stop() })
	return &running{server, t, listener.Addr().String(), stop}
}

// client speaks HTTP/1.1, or HTTP/2 with or without TLS.
func (s *running) client(two bool, config *tls.Config) *http.Client {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(!two)
	protocols.SetHTTP2(two && config != nil)
	protocols.SetUnencryptedHTTP2(two && config == nil)
	transport := &http.Transport{TLSClientConfig: config, Protocols: protocols}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func get(t testing.TB, client *http.Client, url string) (status int, body string, header http.Header) {
	t.Helper()
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode, readAll(t, response.Body), response.Header
}

// dial is a raw connection from an address.
func (s *running) dial(from string) net.Conn {
	s.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return conn
}

// The same handler is served over HTTP/1.1 and HTTP/2, with and without TLS, and a client
// certificate is the caller.
func TestProtocols(t *testing.T) {
	authority := certtest.New(t)
	e := newEdge(t, edge.Config{})
	handler := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto, " ", edge.CallerOf(r.Context()).Subject)
	}))
	plain := serve(t, handler, edge.ServerConfig{})
	secure := serve(t, handler, edge.ServerConfig{TLS: &tls.Config{
		Certificates: []tls.Certificate{authority.Issue(t, "gateway")}, ClientCAs: authority.Roots, ClientAuth: tls.VerifyClientCertIfGiven,
	}})
	for _, two := range []bool{false, true} {
		proto := map[bool]string{false: "HTTP/1.1 ", true: "HTTP/2.0 "}[two]
		_, got, _ := get(t, plain.client(two, nil), "http://"+plain.address)
		want(t, "plaintext", got, proto)
		config := &tls.Config{RootCAs: authority.Roots, ServerName: "gateway"}
		_, got, _ = get(t, secure.client(two, config), "https://"+secure.address)
		want(t, "TLS", got, proto)
		config.Certificates = []tls.Certificate{authority.Issue(t, "phone")}
		_, got, _ = get(t, secure.client(two, config), "https://"+secure.address)
		if !strings.HasPrefix(got, proto+"subject ") || !strings.Contains(got, "phone") {
			t.Errorf("with a certificate: %q", got)
		}
	}
	old := &tls.Config{RootCAs: authority.Roots, ServerName: "gateway", MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	if _, err := secure.client(false, old).Get("https://" + secure.address); err == nil {
		t.Error("TLS 1.1 is served")
	}
}

// Wrong fields are refused by name.
func TestMistakesOfServers(t *testing.T) {
	for want, config := range map[string]edge.ServerConfig{
		"HeaderTimeout":      {HeaderTimeout: -1},
		"IdleTimeout":        {IdleTimeout: -1},
		"Grace":              {Grace: -1},
		"WriteStall":         {WriteStall: -1},
		"MinRate":            {MinRate: -1},
		"MaxHeader":          {MaxHeader: -1},
		"MaxConns":           {MaxConns: -1},
		"MaxConnsPerAddress": {MaxConnsPerAddress: -1},
		"MaxStreams":         {MaxStreams: -1},
		"TrustedProxies":     {TrustedProxies: []netip.Prefix{{}}},
		"below TLS 1.2":      {TLS: &tls.Config{MinVersion: tls.VersionTLS11}},
		"no certificate":     {TLS: &tls.Config{}},
	} {
		if s, err := edge.NewServer(hello, config); err == nil || s != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
	if _, err := edge.NewServer(nil, edge.ServerConfig{}); err == nil {
		t.Error("a server without a handler")
	}
	s := serve(t, hello, edge.ServerConfig{})
	_ = s.stop()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), listener); err == nil {
		t.Error("a server serves twice")
	}
}

// A server whose listener fails says so.
func TestAListenerThatFails(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	server, err := edge.NewServer(hello, edge.ServerConfig{Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(t.Context(), listener); err == nil || server.Readiness() == nil {
		t.Errorf("%v, readiness %v", err, server.Readiness())
	}
}

// When it is to stop, a server is not ready, still answers, asks clients to connect elsewhere,
// and lets running requests end.
func TestADrainFailsNothing(t *testing.T) {
	for _, two := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			begun, release := make(chan struct{}), make(chan struct{})
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					close(begun)
					<-release
				}
				if r.URL.Path != "/empty" {
					fmt.Fprint(w, "hello")
				}
			})
			listener := newPipes()
			s := serveOn(t, listener, handler, edge.ServerConfig{Drain: 5 * time.Second, StopTimeout: time.Minute})
			client, idle := listener.client(two)
			get(t, client, "http://a/")
			if err := s.Readiness(); err != nil {
				t.Error(err)
			}
			var slow sync.WaitGroup
			slow.Go(func() {
				status, body, _ := get(t, client, "http://a/slow")
				want(t, "the running request", fmt.Sprint(status, " ", body), "200 hello")
			})
			<-begun
			stopped := make(chan error, 1)
			go func() { stopped <- s.stop() }()
			synctest.Wait()
			if s.Readiness() == nil {
				t.Error("it is ready while it stops")
			}
			time.Sleep(4 * time.Second)
			for _, path := range []string{"/", "/empty"} {
				other, idle := listener.client(two)
				response, err := other.Get("http://a" + path)
				if err != nil {
					t.Fatal(err)
				}
				want(t, "while it drains", response.StatusCode, 200)
				want(t, "the connection ends", response.Close, !two)
				response.Body.Close()
				idle()
			}
			time.Sleep(10 * time.Second)
			if _, err := listener.dial(); err == nil {
				t.Error("it still listens")
			}
			select {
			case <-stopped:
				t.Fatal("it has not waited for the running request")
			default:
			}
			close(release)
			slow.Wait()
			want(t, "Serve", <-stopped, nil)
			idle()
		})
	}
}

// What does not end in time is cut off: its context ends, and Serve returns even if its
// handler does not.
func TestADrainHasADeadline(t *testing.T) {
	left := make(chan struct{})
	defer close(left)
	begun := make(chan struct{}, 3)
	ended := make(chan error, 1)
	var log lockedBuffer
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/deaf":
			begun <- struct{}{}
			<-left
		case "/upgraded":
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			begun <- struct{}{}
			_, err = io.Copy(io.Discard, conn)
			ended <- err
		default:
			begun <- struct{}{}
			<-r.Context().Done()
		}
	}), edge.ServerConfig{StopTimeout: 50 * time.Millisecond, Logger: log.logger()})
	client := s.client(false, nil)
	var all sync.WaitGroup
	for _, path := range []string{"/", "/deaf"} {
		all.Go(func() {
			if response, err := client.Get("http://" + s.address + path); err == nil {
				response.Body.Close()
			}
		})
	}
	conn := s.dial("127.0.0.1")
	fmt.Fprintf(conn, "GET /upgraded HTTP/1.1\r\nHost: a\r\n\r\n")
	for range 3 {
		<-begun
	}
	want(t, "Serve", s.stop(), nil)
	<-ended // the upgraded connection was closed
	all.Wait()
	if text := log.String(); !strings.Contains(text, "left behind") || !strings.Contains(text, "count=1") {
		t.Errorf("the log has %s", text)
	}
}

// Connections of one address are bounded, but not those of trusted proxies; when there is no
// room at all, the one that has been without a request for longest gives way.
func TestConnectionsAreBounded(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
	}), edge.ServerConfig{MaxConns: 6, MaxConnsPerAddress: 2, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}})
	ask := func(conn net.Conn, path string) error {
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path); err != nil {
			return err
		}
		_, err := bufio.NewReader(conn).ReadString('\n')
		return err
	}
	closed := func(conn net.Conn) bool {
		_, err := conn.Read(make([]byte, 1))
		return err != nil && !errors.Is(err, context.DeadlineExceeded)
	}
	one, two := s.dial("127.0.0.2"), s.dial("127.0.0.2")
	want(t, "first", ask(one, "/"), nil)
	want(t, "second", ask(two, "/"), nil)
	want(t, "third is closed", closed(s.dial("127.0.0.2")), true)
	one.Close()
	for int(counted(t, s, "meshlite_edge_connections")) > 1 {
		time.Sleep(time.Millisecond)
	}
	want(t, "one more", ask(s.dial("127.0.0.2"), "/"), nil)
	var proxied []net.Conn
	for range 4 {
		conn := s.dial("127.0.0.9")
		want(t, "through a proxy", ask(conn, "/"), nil)
		proxied = append(proxied, conn)
	}
	// Six are open. The seventh takes the place of the one that has been idle for longest.
	seventh := s.dial("127.0.0.3")
	want(t, "seventh", ask(seventh, "/"), nil)
	want(t, "the oldest is closed", closed(two), true)
	want(t, "evicted", counted(t, s, "meshlite_edge_refused_connections_total", "reason=evicted"), 1)
	want(t, "of the address", counted(t, s, "meshlite_edge_refused_connections_total", "reason=address"), 1)
	want(t, "open", counted(t, s, "meshlite_edge_connections"), 6)
	want(t, "another goes on", ask(proxied[0], "/"), nil)
	close(release)
}

// When all connections have a request, one more is refused.
func TestBusyConnectionsAreKept(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	s := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { begun <- struct{}{}; <-release }), edge.ServerConfig{MaxConns: 2})
	var busy []net.Conn
	for range 2 {
		conn := s.dial("127.0.0.1")
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		<-begun
		busy = append(busy, conn)
	}
	if _, err := s.dial("127.0.0.1").Read(make([]byte, 1)); err == nil {
		t.Error("a third one is served")
	}
	want(t, "refused", counted(t, s, "meshlite_edge_refused_connections_total", "reason=total"), 1)
	close(release)
	for _, conn := range busy {
		if text, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(text, "200") {
			t.Errorf("%q, %v", text, err)
		}
	}
}

// A client that resets streams as fast as it opens them is disconnected, and few handlers run
// for it.
func TestRapidResetEndsTheConnection(t *testing.T) {
	var mu sync.Mutex
	running, most := 0, 0
	release := make(chan struct{})
	s := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		<-release
		mu.Lock()
		running--
		mu.Unlock()
	}), edge.ServerConfig{MaxStreams: 10})
	conn := s.dial("127.0.0.1")
	fmt.Fprint(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, bufio.NewReader(conn))
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/"}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	static := block.Bytes()
	go func() {
		for id := uint32(1); id < 20_000; id += 2 {
			err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: static, EndStream: true, EndHeaders: true})
			if err != nil || framer.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				return
			}
		}
	}()
	var code http2.ErrCode
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			break
		}
		if away, ok := frame.(*http2.GoAwayFrame); ok {
			code = away.ErrCode
		}
	}
	want(t, "GOAWAY", code, http2.ErrCodeEnhanceYourCalm)
	close(release)
	mu.Lock()
	defer mu.Unlock()
	if most > 10 {
		t.Errorf("%d handlers ran at a time", most)
	}
}
