package cli

import (
	"bytes"
	"io"
	"net/http"
)

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
