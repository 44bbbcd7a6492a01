package cli

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
)

// inProcess sends requests to the admin page of this process itself, which has no listener.
type inProcess struct{ page http.Handler }

// RoundTrip is local, as over a Unix socket.
func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	w := &answered{header: http.Header{}, code: http.StatusOK}
	ctx := context.WithValue(r.Context(), http.LocalAddrContextKey, &net.UnixAddr{Name: "meshlite", Net: "unix"})
	p.page.ServeHTTP(w, r.WithContext(ctx))
	return w.response(r), nil
}

// answered is a response in memory.
type answered struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (a *answered) Header() http.Header            { return a.header }
func (a *answered) WriteHeader(code int)           { a.code = code }
func (a *answered) Write(text []byte) (int, error) { return a.body.Write(text) }
func (a *answered) response(r *http.Request) *http.Response {
	return &http.Response{
		StatusCode: a.code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: a.header, Body: io.NopCloser(&a.body), ContentLength: int64(a.body.Len()),
	}
}
