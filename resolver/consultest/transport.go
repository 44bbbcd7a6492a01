package consultest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

type transport struct{ server *Server }

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	s := t.server
	s.mu.Lock()
	if s.closed || !s.reachable {
		s.record(req, true)
		s.mu.Unlock()
		closeBody(req)
		return nil, refused(req)
	}
	s.work.Add(1) // for the goroutine below
	life := s.life
	s.mu.Unlock()

	ctx, cancel := context.WithCancelCause(req.Context())
	stop := context.AfterFunc(life, func() { cancel(io.EOF) })
	w := newResponseWriter(req)
	release := context.AfterFunc(ctx, func() { w.abort(context.Cause(ctx)) })
	go func() {
		defer s.work.Done()
		defer closeBody(req)
		defer cancel(context.Canceled)
		defer release()
		defer stop()
		err := serve(s, w, serverRequest(s.detached(ctx), req))
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		w.finish(err)
	}()
	select {
	case <-w.ready:
	case <-ctx.Done():
		w.abort(context.Cause(ctx)) // unless the answer came first
	}
	if w.err != nil {
		return nil, w.err
	}
	return w.response, nil
}

// serve runs the handler and turns its abortion into the error a client sees.
func serve(h http.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			err = io.EOF
		default:
			panic(v)
		}
	}()
	h.ServeHTTP(w, r)
	return nil
}

func serverRequest(ctx context.Context, req *http.Request) *http.Request {
	r := req.Clone(ctx)
	r.RequestURI = req.URL.RequestURI()
	r.RemoteAddr = "127.0.0.1:0"
	if r.Host == "" {
		r.Host = req.URL.Host
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	return r
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// refused is the error of net.Dial when there is no listener.
func refused(req *http.Request) error {
	addr := req.URL.Host
	if req.URL.Port() == "" {
		addr = net.JoinHostPort(req.URL.Hostname(), "80")
	}
	return &net.OpError{Op: "dial", Net: "tcp", Addr: address(addr),
		Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// responseWriter returns a response to the client once its header is written, and streams
// the body through a pipe.
type responseWriter struct {
	request  *http.Request
	header   http.Header
	once     sync.Once
	ready    chan struct{} // closed when response or err is set
	response *http.Response
	err      error
	body     *io.PipeWriter
	reader   *io.PipeReader
	left     int64 // of the promised Content-Length, or -1
}

func newResponseWriter(req *http.Request) *responseWriter {
	w := &responseWriter{request: req, header: make(http.Header), ready: make(chan struct{}), left: -1}
	w.reader, w.body = io.Pipe()
	return w
}

func (w *responseWriter) Header() http.Header { return w.header }

func (w *responseWriter) WriteHeader(status int) {
	if status >= 100 && status < 200 {
		return
	}
	w.once.Do(func() {
		if w.header.Get("Date") == "" {
			w.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
		}
		if n, err := strconv.ParseInt(w.header.Get("Content-Length"), 10, 64); err == nil && w.request.Method != http.MethodHead {
			w.left = n
		}
		w.response = &http.Response{
			Status:     fmt.Sprintf("%d %s", status, http.StatusText(status)),
			StatusCode: status,
			Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: w.header.Clone(), Body: w.reader,
			ContentLength: w.left, Request: w.request,
		}
		close(w.ready)
	})
}

func (w *responseWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.request.Method == http.MethodHead || len(p) == 0 {
		return len(p), nil
	}
	if w.left >= 0 {
		if int64(len(p)) > w.left {
			return 0, http.ErrContentLength
		}
		w.left -= int64(len(p))
	}
	return w.body.Write(p)
}

// Flush sends the header; the body is never held back.
func (w *responseWriter) Flush() { w.WriteHeader(http.StatusOK) }

// finish ends the answer after the handler returned.
func (w *responseWriter) finish(err error) {
	if err != nil {
		w.abort(err)
		return
	}
	w.WriteHeader(http.StatusOK)
	if w.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	_ = w.body.CloseWithError(err)
}

// abort fails the request, or the reading of its body if that has begun.
func (w *responseWriter) abort(err error) {
	w.once.Do(func() {
		w.err = err
		close(w.ready)
	})
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // EOF would look like a complete body
	}
	_ = w.body.CloseWithError(err)
}

// listener tracks its connections, to break them as a killed agent would.
type listener struct {
	net.Listener
	owner  *Server
	server *http.Server

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// Accept drops connections at once while the agent is unreachable.
func (l *listener) Accept() (net.Conn, error) {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: inner, owner: l, over: l.owner.conns.add(clientOf(inner))}
		l.mu.Lock()
		l.conns[c] = struct{}{}
		l.mu.Unlock()
		if l.owner.isReachable() {
			return c, nil
		}
		c.reset()
	}
}

// drop breaks all open connections.
func (l *listener) drop() {
	l.mu.Lock()
	conns := slices.Collect(maps.Keys(l.conns))
	l.mu.Unlock()
	for _, c := range conns {
		c.breakWith("HTTP/1.1 ", func(c *conn) { _ = c.Close() })
	}
}

// connKey leads from the context of a request to its *conn.
type connKey struct{}

type conn struct {
	net.Conn
	owner *listener
	over  bool // the limit of its client

	mu     sync.Mutex
	owes   bool // an answer of which not a byte was written
	broken bool
}

func (c *conn) owe(answer bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owes = answer
}

// Write sends nothing after the bytes of breakWith.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	broken := c.broken
	c.owes = false
	c.mu.Unlock()
	if broken {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// breakWith breaks a connection so that its client gets an error: net/http silently
// repeats a GET whose connection broke before the first byte of an answer, and would
// send an index of before a restart to the restarted agent. It writes part of an answer,
// but only if one is due: net/http logs bytes without a request.
func (c *conn) breakWith(bytes string, end func(*conn)) {
	c.mu.Lock()
	owes := c.owes
	c.owes, c.broken = false, true
	c.mu.Unlock()
	if !owes {
		c.reset()
		return
	}
	_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	_, _ = c.Conn.Write([]byte(bytes))
	end(c)
}

// reset closes without a FIN, as the kernel does for a killed process.
func (c *conn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

func (c *conn) Close() error {
	c.owner.mu.Lock()
	_, open := c.owner.conns[c]
	delete(c.owner.conns, c)
	c.owner.mu.Unlock()
	if open {
		c.owner.owner.conns.remove(clientOf(c))
	}
	return c.Conn.Close()
}

// connections counts those to all listeners of an agent.
type connections struct {
	mu         sync.Mutex
	limit      int // per client address, or 0
	open, most int
	from       map[string]int
}

// add counts c and reports whether its client has too many.
func (cs *connections) add(client string) (over bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.open++
	cs.most = max(cs.most, cs.open)
	cs.from[client]++
	return cs.limit > 0 && cs.from[client] > cs.limit
}

func (cs *connections) remove(client string) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.open--
	if cs.from[client]--; cs.from[client] == 0 {
		delete(cs.from, client)
	}
}

// clientOf is the address without its port, which is another for every connection.
func clientOf(c net.Conn) string {
	host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	return host
}

// ServeHTTP answers requests of the listener. A connection over the limit gets
// Consul's text for that, once its request has arrived.
func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*conn); ok && c.over {
		w.Header().Set("Connection", "close")
		write(w, http.StatusTooManyRequests, "text/plain",
			[]byte("Your IP is issuing too many concurrent connections, please rate limit your calls\n"))
		return
	}
	l.owner.ServeHTTP(w, r)
}
