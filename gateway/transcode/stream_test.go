package transcode_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/gateway/problem"
	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/gateway/transcode/testdata/forms"
)

type downloads = grpc.ServerStreamingServer[forms.Thing]

// streaming sends n messages, numbered from 1, and ends with err.
func streaming(n int32, err error) *backend {
	return &backend{stream: func(_ *forms.Thing, stream downloads) error {
		_ = stream.SetHeader(metadata.Pairs("x-lead", "a", "x-other", "b"))
		for i := range n {
			if err := stream.Send(&forms.Thing{Int32: i + 1}); err != nil {
				return err
			}
		}
		return err
	}}
}

// Case E12: Server stream as NDJSON and as server-sent events; an error in mid-stream is in the stream; a slow reader holds back the backend, not the gateway's memory.
func TestAServerStreamIsLinesOrEvents(t *testing.T) {
	secret := status.Error(codes.Internal, "hunter2")
	gone := status.Error(codes.NotFound, "gone")
	hidden := `{"title":"Internal Server Error","status":500,"detail":"the service has failed; the reason is in the log of the gateway","code":"INTERNAL"}`
	shown := `{"title":"Not Found","status":404,"detail":"gone","code":"NOT_FOUND"}`
	const sse = "text/event-stream"
	for _, test := range []struct {
		accept string
		n      int32
		err    error
		status int
		body   string
	}{
		{"", 2, nil, 200, "{\"int32\":1}\n{\"int32\":2}\n"},
		{"*/*", 0, nil, 200, ""},
		{"application/x-ndjson", 1, gone, 200, "{\"int32\":1}\n{\"error\":" + shown + "}\n"},
		{"", 1, secret, 200, "{\"int32\":1}\n{\"error\":" + hidden + "}\n"},
		{"", 0, gone, 404, shown},
		{sse, 2, nil, 200, "data: {\"int32\":1}\n\ndata: {\"int32\":2}\n\nevent: end\ndata: {}\n\n"},
		{sse + ";q=0.5, */*", 0, nil, 200, "event: end\ndata: {}\n\n"},
		{sse, 1, gone, 200, "data: {\"int32\":1}\n\nevent: error\ndata: " + shown + "\n\n"},
		{sse, 1, secret, 200, "data: {\"int32\":1}\n\nevent: error\ndata: " + hidden + "\n\n"},
		{sse, 0, secret, 500, hidden},
		{sse + ";q=0", 0, nil, 406, ""},
		{"application/json", 0, nil, 406, ""},
	} {
		mux := newMux(t, streaming(test.n, test.err), func(c *transcode.Config) { c.Headers = []string{"x-lead"} })
		for _, target := range []string{"/v1/downloads/a", "/forms.v1.FormsService/Download"} {
			method, body := "GET", ""
			if strings.HasPrefix(target, "/forms") {
				method, body = "POST", `{"id":"a"}`
			}
			var headers []string
			if test.accept != "" {
				headers = []string{"Accept", test.accept}
			}
			w := do(mux, method, target, body, headers...)
			if w.Code != test.status || test.status != 406 && w.Body.String() != test.body {
				t.Errorf("%s, %q, %d messages, %v: status %d, %q; want %d, %q", target, test.accept, test.n, test.err, w.Code, w.Body, test.status, test.body)
			}
			if test.status != 200 {
				problemIn(t, w)
				continue
			}
			want := map[bool]string{true: sse, false: "application/x-ndjson"}[strings.HasPrefix(test.accept, sse)]
			if h := w.Header(); h.Get("Content-Type") != want || h.Get("Cache-Control") != "no-store" || h.Get("X-Lead") != "a" || h.Get("X-Other") != "" {
				t.Errorf("%s, %q: headers %v", target, test.accept, h)
			}
		}
	}
}

func TestAMessageIsWrittenWhenItComes(t *testing.T) {
	read := make(chan struct{})
	b := backend{stream: func(_ *forms.Thing, stream downloads) error {
		for i := range 3 {
			if err := stream.Send(&forms.Thing{Int32: int32(i)}); err != nil {
				return err
			}
			<-read // the caller has this one before there is another
		}
		return nil
	}}
	server := httptest.NewServer(newMux(t, &b, nil))
	defer server.Close()
	answer, err := server.Client().Get(server.URL + "/v1/downloads/a")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	n := 0
	for ; lines.Scan(); n++ {
		read <- struct{}{}
	}
	if n != 3 || lines.Err() != nil {
		t.Errorf("%d lines, %v", n, lines.Err())
	}
}

func TestHEADOfAStreamMakesNoCall(t *testing.T) {
	b := streaming(1, nil)
	if w := do(newMux(t, b, nil), "HEAD", "/v1/downloads/a", ""); w.Code != 200 || len(b.taken()) > 0 {
		t.Errorf("status %d", w.Code)
	}
}

// webServer serves mux without sockets, in the bubble of the test, and returns a dialer.
func webServer(t *testing.T, mux http.Handler) func() net.Conn {
	t.Helper()
	listener := pipes{make(chan net.Conn), make(chan struct{})}
	server := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() {
		_ = server.Serve(listener)
		close(done)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return func() net.Conn {
		ours, theirs := net.Pipe()
		listener.conns <- theirs
		return ours
	}
}

type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}

func (pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestASlowReaderHoldsBackTheBackendUntilItIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		ended := make(chan error, 1)
		large := strings.Repeat("a", 1<<20)
		b := backend{stream: func(_ *forms.Thing, stream downloads) error {
			for stream.Send(&forms.Thing{Name: large}) == nil {
				sent.Add(1)
			}
			<-stream.Context().Done()
			ended <- stream.Context().Err()
			return nil
		}}
		dial := webServer(t, newMux(t, &b, func(c *transcode.Config) { c.WriteTimeout = time.Minute }))
		conn := dial()
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /v1/downloads/a HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := sent.Load(); n > 3 {
			t.Errorf("%d MiB were sent to a caller that reads nothing", n)
		}
		// It reads about a message in a third of the time that it has: the stream goes on.
		reader := bufio.NewReader(conn)
		for range 5 {
			time.Sleep(time.Minute / 3)
			if _, err := io.CopyN(io.Discard, reader, 1<<20); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if n := sent.Load(); n > 9 || n < 4 || len(ended) > 0 {
			t.Errorf("%d MiB sent after 5 were read, ended: %v", n, len(ended) > 0)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if len(ended) != 1 {
			t.Fatal("the call of a stuck caller goes on")
		}
		if err := <-ended; err != context.Canceled {
			t.Errorf("the call ended with %v", err)
		}
	})
}

func TestAStreamEndsWhenItsCallerGoesAway(t *testing.T) {
	ended := make(chan error)
	b := backend{stream: func(_ *forms.Thing, stream downloads) error {
		if err := stream.Send(&forms.Thing{}); err != nil {
			return err
		}
		<-stream.Context().Done()
		ended <- stream.Context().Err()
		return nil
	}}
	server := httptest.NewServer(newMux(t, &b, nil))
	defer server.Close()
	answer, err := server.Client().Get(server.URL + "/v1/downloads/a")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if err := <-ended; err != context.Canceled {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestAStreamHasTheDeadlineOfItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backend{stream: func(_ *forms.Thing, stream downloads) error {
			_ = stream.Send(&forms.Thing{Int32: 1})
			<-stream.Context().Done()
			return stream.Context().Err()
		}}
		mux := newMux(t, &b, func(c *transcode.Config) { c.MaxTimeout = 10 * time.Minute })
		for wait, want := range map[string]time.Duration{"wait=90": 90 * time.Second, "": 10 * time.Minute} {
			start := time.Now()
			w := do(mux, "GET", "/v1/downloads/a", "", "Prefer", wait)
			var last struct{ Error problem.Problem }
			lines := strings.Split(strings.TrimSpace(w.Body.String()), "\n")
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Error.Code != "DEADLINE_EXCEEDED" || time.Since(start) != want {
				t.Errorf("%q: %s after %v, want %v", wait, w.Body, time.Since(start), want)
			}
		}
	})
}
