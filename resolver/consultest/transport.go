package consultest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Transport returns a round tripper that reaches the agent, whatever the host
// in the URL, with no socket: its goroutines block on channels only, so it works
// in a testing/synctest bubble. Answers stream. As with [http.Transport],
// the end of the request's context ends the request at once, here and in the agent.
func (s *Server) Transport() http.RoundTripper { return transport{s} }

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
		err := serve(s, w, serverRequest(s.newcomer(ctx), req))
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

// newcomer hides the request that ctx may be of already, as a socket would.
func (s *Server) newcomer(ctx context.Context) context.Context {
	return context.WithValue(context.WithValue(ctx, connKey{}, nil), own{s}, nil)
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

// refused is what net.Dial says when nobody listens.
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

// responseWriter hands the client a response as soon as its header is written
// and then passes the body through a pipe.
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
