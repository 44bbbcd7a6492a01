package edge

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// watch cuts off a request whose client is too slow: whose body falls behind the least rate,
// or that takes nothing of its answer. Its clock runs only while a read or a write waits for
// the client, so a slow backend is not blamed on it.
type watch struct {
	server *Server
	writer watchedWriter
	body   *watchedBody // nil without one
	http1  bool

	mu       sync.Mutex
	timer    *time.Timer
	fireAt   time.Time // zero while the timer is stopped
	readBy   time.Time // zero while nobody reads
	writeBy  time.Time // zero while nobody writes
	ended    bool
	hijacked bool
}

func newWatch(s *Server, w http.ResponseWriter, r *http.Request) *watch {
	watch := &watch{server: s, http1: r.ProtoMajor == 1}
	watch.writer = watchedWriter{ResponseWriter: w, watch: watch}
	if r.Body != nil && r.Body != http.NoBody {
		watch.body = &watchedBody{ReadCloser: r.Body, watch: watch, budget: s.config.Grace}
		r.Body = watch.body
	}
	return watch
}

// control sets the deadlines of the connection.
func (w *watch) control() *http.ResponseController {
	return http.NewResponseController(w.writer.ResponseWriter)
}

// begin has a wait end within patience. by is readBy or writeBy.
func (w *watch) begin(by *time.Time, patience time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*by = time.Now().Add(patience)
	switch {
	case w.ended:
	case w.timer == nil:
		w.timer, w.fireAt = time.AfterFunc(patience, w.fire), *by
	case w.fireAt.IsZero() || w.fireAt.After(*by):
		w.timer.Reset(patience)
		w.fireAt = *by
	}
}

func (w *watch) finish(by *time.Time) {
	w.mu.Lock()
	*by = time.Time{}
	w.mu.Unlock()
}

// fire cuts off the wait whose time is over, or comes again at that of the next.
func (w *watch) fire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fireAt = (time.Time{}); w.ended {
		return
	}
	now := time.Now()
	past := now.Add(-time.Second)
	if !w.readBy.IsZero() && !now.Before(w.readBy) {
		w.readBy = time.Time{}
		w.server.metrics.cut.WithLabelValues("body").Inc()
		_ = w.control().SetReadDeadline(past)
	}
	if !w.writeBy.IsZero() && !now.Before(w.writeBy) {
		w.writeBy = time.Time{}
		w.server.metrics.cut.WithLabelValues("answer").Inc()
		_ = w.control().SetWriteDeadline(past)
	}
	for _, by := range []time.Time{w.readBy, w.writeBy} {
		if !by.IsZero() && (w.fireAt.IsZero() || by.Before(w.fireAt)) {
			w.fireAt = by
		}
	}
	if !w.fireAt.IsZero() {
		w.timer.Reset(w.fireAt.Sub(now))
	}
}

// end is when the handler has returned. What net/http does after that, such as to read the
// rest of a body and to send the rest of an answer, gets a time too.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	if w.timer != nil {
		w.timer.Stop()
	}
	if w.hijacked {
		return
	}
	now := time.Now()
	if w.http1 && w.body != nil && !w.body.ended {
		_ = w.control().SetReadDeadline(now.Add(min(w.body.budget, time.Second)))
	}
	_ = w.control().SetWriteDeadline(now.Add(w.server.config.WriteStall))
}

// watchedBody has a budget of time to wait in, which bytes that come refill up to Grace.
type watchedBody struct {
	io.ReadCloser
	watch  *watch
	budget time.Duration // below watch.mu
	ended  bool          // read to its end; below watch.mu
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.mu.Lock()
	budget := b.budget
	b.watch.mu.Unlock()
	if budget <= 0 {
		return 0, os.ErrDeadlineExceeded
	}
	config, start := &b.watch.server.config, time.Now()
	b.watch.begin(&b.watch.readBy, budget)
	n, err := b.ReadCloser.Read(p)
	waited := time.Since(start)
	b.watch.mu.Lock()
	defer b.watch.mu.Unlock()
	b.watch.readBy = time.Time{}
	b.budget = min(budget-waited+time.Duration(n)*time.Second/time.Duration(config.MinRate), config.Grace)
	switch {
	case errors.Is(err, io.EOF):
		b.ended = true
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.budget = 0
	}
	return n, err
}

// bufferedBytes of an answer do not wait for the client while its handler runs: net/http keeps
// as much, in HTTP/1.1 and in HTTP/2, and sends it after the handler has returned.
const bufferedBytes = 2 << 10

// watchedWriter watches what is written.
type watchedWriter struct {
	http.ResponseWriter
	watch    *watch
	begun    bool
	buffered int // bytes that net/http still keeps, at most
}

// Unwrap is for [http.ResponseController].
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader begins the answer.
func (w *watchedWriter) WriteHeader(status int) {
	if status >= 200 {
		w.begin()
	}
	w.ResponseWriter.WriteHeader(status)
}

// begin asks the client to connect elsewhere if the server is stopping. In HTTP/2 the header
// is not sent, and GOAWAY is.
func (w *watchedWriter) begin() {
	if !w.begun {
		w.begun = true
		if w.watch.server.draining.Load() {
			w.Header().Set("Connection", "close")
		}
	}
}

// Write sends a part of the body.
func (w *watchedWriter) Write(b []byte) (int, error) {
	w.begin()
	if w.buffered+len(b) < bufferedBytes {
		w.buffered += len(b)
		return w.ResponseWriter.Write(b)
	}
	w.buffered = bufferedBytes
	w.watch.begin(&w.watch.writeBy, w.watch.server.config.WriteStall)
	defer w.watch.finish(&w.watch.writeBy)
	return w.ResponseWriter.Write(b)
}

// Flush is for handlers that look for an [http.Flusher].
func (w *watchedWriter) Flush() { _ = w.FlushError() }

// FlushError is for [http.ResponseController].
func (w *watchedWriter) FlushError() error {
	w.begin()
	w.watch.begin(&w.watch.writeBy, w.watch.server.config.WriteStall)
	defer w.watch.finish(&w.watch.writeBy)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack gives the connection away, whose times are the handler's from then on.
func (w *watchedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.watch.mu.Lock()
		w.watch.hijacked, w.watch.ended = true, true
		w.watch.mu.Unlock()
	}
	return conn, buffered, err
}
