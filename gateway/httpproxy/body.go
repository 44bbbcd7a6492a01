package httpproxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// bodyError is an error of the caller's body.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "httpproxy: the body of the request: " + e.err.Error() }

func (e *bodyError) Unwrap() error { return e.err }

// requestBody is the body of a request for several attempts: in memory if it is small and may be
// sent again, else it is passed on as it comes.
type requestBody struct {
	body   io.ReadCloser // nil for none
	length int64
	small  bool
	text   []byte // of a small one

	mu    sync.Mutex
	read  bool  // an attempt has begun to read it
	wrong error // of the caller's body
}

func newRequestBody(r *http.Request, maxReplay int64) *requestBody {
	b := &requestBody{body: r.Body, length: r.ContentLength}
	if r.Body == http.NoBody {
		b.body = nil
	}
	b.small = b.body != nil && b.length > 0 && b.length <= maxReplay && slices.Contains(idempotent, r.Method)
	return b
}

// load reads a small body, once.
func (b *requestBody) load() error {
	if !b.small || b.text != nil {
		return nil
	}
	text := make([]byte, b.length)
	if _, err := io.ReadFull(b.body, text); err != nil {
		return &bodyError{err}
	}
	b.text = text
	return nil
}

// reader is the body for one attempt.
func (b *requestBody) reader() io.ReadCloser {
	switch {
	case b.body == nil:
		return http.NoBody
	case b.small:
		return io.NopCloser(bytes.NewReader(b.text))
	default:
		return &attemptBody{requestBody: b}
	}
}

// rewind reports whether another attempt can have the whole body.
func (b *requestBody) rewind() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.body == nil || b.small || !b.read
}

// failed is the error of the caller's body, if it had one.
func (b *requestBody) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wrong
}

// attemptBody is a body that is passed on as it comes. It belongs to one attempt.
type attemptBody struct {
	*requestBody
	closed atomic.Bool
}

// Read reads from the caller.
func (a *attemptBody) Read(p []byte) (int, error) {
	if a.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	a.mu.Lock()
	a.read = true
	a.mu.Unlock()
	n, err := a.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !a.closed.Load() {
		err = &bodyError{err}
		a.mu.Lock()
		a.wrong = err
		a.mu.Unlock()
	}
	return n, err
}

// Close ends the attempt's part: another attempt may follow if nothing was read. The server
// closes the caller's body when the handler returns.
func (a *attemptBody) Close() error {
	a.closed.Store(true)
	return nil
}

var errBodyTimeout = errors.New("httpproxy: the body of the answer pauses for too long")

// responseBody is the body of an answer. Its end is reported once: at its last byte, at an error
// or when it is closed.
type responseBody struct {
	io.ReadCloser
	ctx     context.Context // of the request
	timeout time.Duration
	timer   *time.Timer // nil without a timeout
	once    sync.Once
	done    func(error)
	holds   chan struct{} // has one for the request, taken at the end; nil if another attempt follows
}

// Read reads from the instance.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.end(nil)
	case err != nil:
		b.end(err)
	case b.timer != nil:
		b.timer.Reset(b.timeout)
	}
	return n, err
}

// Close ends the body.
func (b *responseBody) Close() error {
	err := b.ReadCloser.Close()
	b.end(nil)
	return err
}

func (b *responseBody) end(err error) {
	b.once.Do(func() {
		if b.timer != nil {
			b.timer.Stop()
		}
		b.done(err)
		if b.holds != nil {
			<-b.holds
		}
	})
}

// upgraded is the connection after 101 Switching Protocols.
type upgraded struct {
	*responseBody
	connection io.ReadWriteCloser
}

// Write writes to the instance.
func (u *upgraded) Write(p []byte) (int, error) { return u.connection.Write(p) }
