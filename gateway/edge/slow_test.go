package edge_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

// reads answers 408 where the body does not come.
var reads = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.WriteHeader(http.StatusRequestTimeout)
		return
	}
	fmt.Fprint(w, n)
})

// until is for how long a connection lasts while something is sent every now and then, and
// what was answered.
func until(t *testing.T, conn net.Conn, begin, more string, every time.Duration) (time.Duration, string) {
	t.Helper()
	start := time.Now()
	ended := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		if _, err := io.WriteString(conn, begin); err != nil || more == "" {
			return
		}
		for {
			select {
			case <-time.After(every):
			case <-ended:
				return
			}
			if _, err := io.WriteString(conn, more); err != nil {
				return
			}
		}
	})
	answer, _ := io.ReadAll(conn)
	close(ended)
	conn.Close()
	sending.Wait()
	line, _, _ := strings.Cut(string(answer), "\r\n")
	return time.Since(start), line
}

// Case E8: A header or body that never ends is cut at its time; 2,000 of them fail no good request; memory is bounded.
func TestSlowClientsAreCutAtTheirTime(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
	ignoring := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	for name, test := range map[string]struct {
		handler     http.Handler
		begin, more string
		every       time.Duration
		want        time.Duration
		answer      string
	}{
		"nothing":                     {reads, "", "", 0, 7 * time.Second, ""},
		"half a line":                 {reads, "GET / HT", "", 0, 7 * time.Second, "HTTP/1.1 400 Bad Request"},
		"a header that never ends":    {reads, "GET / HTTP/1.1\r\n", "X: 1\r\n", time.Second, 7 * time.Second, ""},
		"no body":                     {reads, post, "", 0, 5 * time.Second, "HTTP/1.1 408 Request Timeout"},
		"a byte every second":         {reads, post, "x", time.Second, 5 * time.Second, "HTTP/1.1 408 Request Timeout"},
		"much at once, then nothing":  {reads, post + strings.Repeat("x", 50_000), "", 0, 5 * time.Second, "HTTP/1.1 408 Request Timeout"},
		"chunks that never end":       {reads, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", time.Second, 5 * time.Second, "HTTP/1.1 408 Request Timeout"},
		"a body that nobody reads":    {ignoring, post, "x", 100 * time.Millisecond, time.Second, "HTTP/1.1 404 Not Found"},
		"idle after a request":        {hello, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "", 0, 9 * time.Second, "HTTP/1.1 200 OK"},
		"a slow body that is in time": {reads, post, strings.Repeat("x", 1000), time.Second, 99*time.Second + 10*time.Second, "HTTP/1.1 200 OK"},
	} {
		synctest.Test(t, func(t *testing.T) {
			listener := newPipes()
			s := serveOn(t, listener, test.handler, edge.ServerConfig{HeaderTimeout: 7 * time.Second, Grace: 5 * time.Second, MinRate: 1000, IdleTimeout: 9 * time.Second})
			conn, err := listener.dial()
			if err != nil {
				t.Fatal(err)
			}
			took, answer := until(t, conn, test.begin, test.more, test.every)
			if off := took - test.want; off < -time.Second || off > time.Second {
				t.Errorf("%s: it is cut after %v, want %v", name, took, test.want)
			}
			want(t, name, answer, test.answer)
			_ = s.stop()
		})
	}
}

// A slow backend is not blamed on the client: time counts only while it is waited for.
func TestASlowBackendCutsNobody(t *testing.T) {
	for _, two := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			listener := newPipes()
			s := serveOn(t, listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if err := http.NewResponseController(w).EnableFullDuplex(); err != nil && !two {
					t.Error(err)
				}
				part := make([]byte, 10)
				for {
					n, err := r.Body.Read(part)
					if err != nil && err != io.EOF {
						t.Error(err)
					}
					if _, err := w.Write(part[:n]); err != nil {
						t.Error(err)
					}
					_ = http.NewResponseController(w).Flush()
					if err != nil {
						return
					}
					time.Sleep(time.Minute) // beyond all times
				}
			}), edge.ServerConfig{Grace: time.Second, WriteStall: time.Second})
			client, idle := listener.client(two)
			response, err := client.Post("http://a/", "text/plain", strings.NewReader(strings.Repeat("x", 40)))
			if err != nil {
				t.Fatal(err)
			}
			want(t, "echo", len(readAll(t, response.Body)), 40)
			response.Body.Close()
			idle()
			want(t, "cut", counted(t, s, "meshlite_edge_cut_total"), 0)
			_ = s.stop()
		})
	}
}

// A body over HTTP/2 that does not come ends its stream, and no other of the connection.
func TestASlowBodyEndsItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := newPipes()
		s := serveOn(t, listener, reads, edge.ServerConfig{Grace: 5 * time.Second, MinRate: 1000})
		client, idle := listener.client(true)
		body, sending := io.Pipe()
		start := time.Now()
		response, err := client.Post("http://a/", "text/plain", body)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "status", response.StatusCode, http.StatusRequestTimeout)
		want(t, "after", time.Since(start), 5*time.Second)
		response.Body.Close()
		sending.Close()
		status, _, _ := get(t, client, "http://a/")
		want(t, "another", status, 200)
		want(t, "cut", counted(t, s, "meshlite_edge_cut_total", "what=body"), 1)
		idle()
		_ = s.stop()
	})
}

// A client that takes nothing of its answer is cut off, in the middle or at the end of it.
func TestAClientThatTakesNothingIsCut(t *testing.T) {
	for _, two := range []bool{false, true} {
		for _, size := range []int{8 << 20, 100} {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan time.Duration, 1)
				listener := newPipes()
				s := serveOn(t, listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					start := time.Now()
					_, err := w.Write(make([]byte, size))
					if size > 100 && err == nil {
						err = http.NewResponseController(w).Flush()
					}
					if (err == nil) != (size == 100) {
						t.Errorf("writing %d bytes: %v", size, err)
					}
					ended <- time.Since(start)
				}), edge.ServerConfig{WriteStall: 5 * time.Second})
				if two {
					client, idle := listener.client(true)
					response, err := client.Get("http://a/") // reads no more than its window
					if err != nil {
						t.Fatal(err)
					}
					if took := <-ended; size > 100 && took != 0 && took != 5*time.Second {
						t.Errorf("the write took %v", took)
					}
					response.Body.Close()
					idle()
				} else {
					conn, err := listener.dial()
					if err != nil {
						t.Fatal(err)
					}
					fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
					if took := <-ended; size > 100 && took != 5*time.Second {
						t.Errorf("the write took %v", took)
					}
					time.Sleep(6 * time.Second)
					synctest.Wait()
					want(t, "open", counted(t, s, "meshlite_edge_connections"), 0)
					conn.Close()
				}
				_ = s.stop()
			})
		}
	}
}

// Headers and bodies that never end fail no good request, and take bounded memory.
//
// Case E8
func TestTwoThousandSlowClientsFailNoGoodRequest(t *testing.T) {
	const slow = 2000
	e := newEdge(t, edge.Config{})
	var begun sync.WaitGroup
	handler := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			begun.Done()
		}
		reads(w, r)
	}))
	// The headers last as long as the test, so that all are open at a time.
	s := serve(t, handler, edge.ServerConfig{MaxConnsPerAddress: slow, HeaderTimeout: time.Hour, Grace: time.Hour})
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	client := s.client(false, nil)
	get(t, client, "http://"+s.address)
	before := memory()
	begun.Add(slow / 2)
	conns := make([]net.Conn, slow)
	for i := range conns {
		conns[i] = s.dial("127.0.0.2")
		text := "GET / HTTP/1.1\r\nX-Slow: "
		if i%2 == 0 {
			text = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx"
		}
		if _, err := io.WriteString(conns[i], text); err != nil {
			t.Fatal(err)
		}
	}
	begun.Wait()
	for int(counted(t, s, "meshlite_edge_connections")) < slow {
		time.Sleep(time.Millisecond)
	}
	for range 200 {
		if status, body, _ := get(t, client, "http://"+s.address); status != 200 || body != "0" {
			t.Fatalf("a good request: %d %s", status, body)
		}
	}
	one, two := s.client(false, nil), s.client(true, nil)
	for _, c := range []*http.Client{one, two} {
		status, _, _ := get(t, c, "http://"+s.address)
		want(t, "on a new connection", status, 200)
	}
	each := (int64(memory()) - int64(before)) / slow
	t.Logf("%d bytes each, both ends", each)
	if most := int64(64 << 10); each > most {
		t.Errorf("a slow client takes %d bytes, want at most %d", each, most)
	}
	for _, conn := range conns {
		conn.Close()
	}
}

// Each of them is cut at its time, and those that are too many of an address at once.
//
// Case E8
func TestSlowClientsAreCutAndCapped(t *testing.T) {
	s := serve(t, reads, edge.ServerConfig{MaxConnsPerAddress: 500, HeaderTimeout: 200 * time.Millisecond, Grace: 200 * time.Millisecond})
	client := s.client(false, nil)
	get(t, client, "http://"+s.address) // a connection whose header can be late no more
	ctx, cancel := context.WithCancel(context.Background())
	var good sync.WaitGroup
	good.Go(func() {
		for ctx.Err() == nil {
			response, err := client.Get("http://" + s.address)
			if err != nil {
				t.Errorf("a good request: %v", err)
				return
			}
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode != 200 {
				t.Errorf("a good request: %d", response.StatusCode)
			}
		}
	})
	var all sync.WaitGroup
	for i := range 2000 {
		conn := s.dial("127.0.0.2")
		all.Go(func() {
			text := "GET / HTTP/1.1\r\nX-Slow: "
			if i%2 == 0 {
				text = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx"
			}
			_, _ = io.WriteString(conn, text)
			for reader := bufio.NewReader(conn); ; {
				if _, err := reader.ReadByte(); err != nil { // closed by the server
					return
				}
			}
		})
	}
	all.Wait()
	cancel()
	good.Wait()
}

// raw are frames of HTTP/2.
func raw(t testing.TB, frames ...func(*http2.Framer) error) string {
	t.Helper()
	var b strings.Builder
	framer := http2.NewFramer(&b, nil)
	for _, frame := range frames {
		if err := frame(framer); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// The same over HTTP/2 and in a TLS handshake: a connection without a whole request ends as an
// idle one, or with the time for a header.
//
// Case E8
func TestSlowClientsOfOtherProtocolsAreCut(t *testing.T) {
	settings := func(f *http2.Framer) error { return f.WriteSettings() }
	begun := func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}, EndStream: true})
	}
	authority := certtest.New(t)
	for name, test := range map[string]struct {
		begin string
		tls   bool
		most  time.Duration
	}{
		"half a preface":          {http2.ClientPreface[:20], false, 17 * time.Second},
		"no settings":             {http2.ClientPreface, false, 17 * time.Second},
		"no stream":               {http2.ClientPreface + raw(t, settings), false, 10 * time.Second},
		"headers that do not end": {http2.ClientPreface + raw(t, settings, begun), false, 10 * time.Second},
		"half a frame":            {http2.ClientPreface + raw(t, settings) + "\x00\x40", false, 10 * time.Second},
		"no handshake":            {"", true, 7 * time.Second},
		"half a handshake":        {"\x16\x03\x01\x02\x00\x01", true, 7 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			listener := newPipes()
			config := edge.ServerConfig{HeaderTimeout: 7 * time.Second, IdleTimeout: 9 * time.Second}
			if test.tls {
				config.TLS = &tls.Config{Certificates: []tls.Certificate{authority.Issue(t, "gateway")}}
			}
			s := serveOn(t, listener, hello, config)
			conn, err := listener.dial()
			if err != nil {
				t.Fatal(err)
			}
			if took, _ := until(t, conn, test.begin, "", 0); took > test.most+time.Second {
				t.Errorf("%s: it is cut after %v, want %v at most", name, took, test.most)
			}
			_ = s.stop()
		})
	}
}
