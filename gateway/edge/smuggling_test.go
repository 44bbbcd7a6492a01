package edge_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/meshlite-go/meshlite/gateway/edge"
)

const unreadable = "a body that cannot be read"

// seen is what a handler understands of a request.
func seen(r *http.Request) string {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return unreadable
	}
	return fmt.Sprintf("%s %s host=%s body=%q x=%q", r.Method, r.RequestURI, r.Host, body, r.Header.Values("X-A"))
}

// Case E7: Content-Length with Transfer-Encoding, bare CR or LF, folded headers, absolute-form and encoded-slash paths are refused, or are the same to us and to the backend, and nothing is left over on a connection that is a request of its own.
func TestNoRequestMeansTwoThings(t *testing.T) {
	var mu sync.Mutex
	var ours, theirs []string
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		theirs = append(theirs, seen(r))
	}))
	defer backend.Close()
	target, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	e := newEdge(t, edge.Config{})
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host
		e.Forward(r.In, r.Out.Header)
	}}
	handler := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := seen(r)
		mu.Lock()
		ours = append(ours, text)
		mu.Unlock()
		if text == unreadable {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_, body, _ := strings.Cut(text, "body=")
		body, _, _ = strings.Cut(body, " x=")
		fmt.Sscanf(body, "%q", &body)
		r.Body = io.NopCloser(strings.NewReader(body))
		r.ContentLength = int64(len(body))
		proxy.ServeHTTP(w, r)
	}))
	s := serve(t, handler, edge.ServerConfig{})
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, test := range map[string]struct {
		raw  string
		code int
		want string // what both see, "" for nothing
	}{
		"plain":                     {"GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n", 200, `GET /v1 host=a body="" x=[]`},
		"CL and TE":                 {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, `POST / host=a body="abc" x=[]`},
		"TE and CL, shorter":        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 200, `POST / host=a body="" x=[]`},
		"two CL":                    {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, ""},
		"two equal CL":              {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 200, `POST / host=a body="abc" x=[]`},
		"CL with a sign":            {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400, ""},
		"CL in hex":                 {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", 400, ""},
		"CL list":                   {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", 400, ""},
		"two TE":                    {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501, ""},
		"TE in disguise":            {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, ""},
		"TE with space":             {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, ""},
		"TE with a tab":             {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 400, ""},
		"TE identity":               {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc", 501, ""},
		"chunk size too large":      {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400, ""},
		"chunk with bare LF":        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n", 400, ""},
		"chunk ext with bare LF":    {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nabc\r\n0\r\n\r\n", 400, ""},
		"bare LF as line end":       {"GET / HTTP/1.1\nHost: a\nX-A: 1\n\n", 200, `GET / host=a body="" x=["1"]`},
		"bare CR in a value":        {"GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\rX-B: 2\r\n\r\n", 400, ""},
		"bare CR in the line":       {"GET /a\rb HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		"NUL in a value":            {"GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\x002\r\n\r\n", 400, ""},
		"folded header":             {"GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n 2\r\n\r\n", 200, `GET / host=a body="" x=["1 2"]`},
		"folded first":              {"GET / HTTP/1.1\r\n X-A: 1\r\nHost: a\r\n\r\n", 400, ""},
		"no name":                   {"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", 400, ""},
		"space in a name":           {"GET / HTTP/1.1\r\nHost: a\r\nX A: 1\r\n\r\n", 400, ""},
		"no colon":                  {"GET / HTTP/1.1\r\nHost: a\r\nX-A\r\n\r\n", 400, ""},
		"two hosts":                 {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, ""},
		"no host":                   {"GET / HTTP/1.1\r\n\r\n", 400, ""},
		"a host with a path":        {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, ""},
		"absolute form":             {"GET http://b/v1?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", 200, `GET /v1?x=1 host=b body="" x=[]`},
		"absolute form, user":       {"GET http://u:p@b/v1 HTTP/1.1\r\nHost: a\r\n\r\n", 200, `GET /v1 host=b body="" x=[]`},
		"absolute, dots":            {"GET http://b/../v1 HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		"encoded slash":             {"GET /v1/a%2Fb HTTP/1.1\r\nHost: a\r\n\r\n", 200, `GET /v1/a%2Fb host=a body="" x=[]`},
		"encoded dots":              {"GET /v1/%2e%2E/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		"encoded dots and slash":    {"GET /v1/..%2fb HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		"encoded backslash":         {"GET /v1/..%5cb HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		"dots with a parameter":     {"GET /v1/..;x/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		"encoded line end":          {"GET /v1%0d%0aX HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		"encoded NUL":               {"GET /v1%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		"broken percent":            {"GET /v1%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		"two slashes":               {"GET //b/v1 HTTP/1.1\r\nHost: a\r\n\r\n", 200, `GET //b/v1 host=a body="" x=[]`},
		"no slash":                  {"GET v1 HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		"asterisk":                  {"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		"CONNECT":                   {"CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", 405, ""},
		"TRACE":                     {"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405, ""},
		"HTTP/1.0 with TE":          {"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, `POST / host=a body="" x=[]`}, // and the connection ends
		"HTTP/3.0":                  {"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, ""},
		"a method with a space":     {"GE T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		"GET with a body":           {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 200, `GET / host=a body="abc" x=[]`},
		"a body that looks like it": {fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(smuggled), smuggled), 200, fmt.Sprintf(`POST / host=a body=%q x=[]`, smuggled)},
	} {
		mu.Lock()
		ours, theirs = nil, nil
		mu.Unlock()
		conn := s.dial("127.0.0.1")
		if _, err := io.WriteString(conn, test.raw); err != nil {
			t.Fatal(err)
		}
		reader := bufio.NewReader(conn)
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		// Whatever is left of the first request would come before the last.
		_, _ = io.WriteString(conn, "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		rest, _ := io.ReadAll(reader)
		conn.Close()
		mu.Lock()
		isLast := func(text string) bool { return strings.HasPrefix(text, "GET /last ") }
		ours, theirs = slices.DeleteFunc(ours, isLast), slices.DeleteFunc(theirs, isLast)
		both := append([]string{fmt.Sprint(response.StatusCode)}, ours...)
		if test.want == "" {
			if response.StatusCode != test.code || len(theirs) > 0 {
				t.Errorf("%s: %q, the backend %q, want %d", name, both, theirs, test.code)
			}
		} else if response.StatusCode != test.code || len(ours) != 1 || len(theirs) != 1 || ours[0] != test.want || theirs[0] != test.want {
			t.Errorf("%s: %q, the backend %q, want %s", name, both, theirs, test.want)
		}
		mu.Unlock()
		if n := strings.Count(string(rest), "HTTP/1.1 "); n > 1 {
			t.Errorf("%s: there are %d answers more than requests: %q", name, n-1, rest)
		}
	}
}

// In HTTP/2 a method, a host or a query that would be another request in HTTP/1.1 is refused.
//
// Case E7
func TestNoRequestOfHTTP2MeansTwoThings(t *testing.T) {
	e := newEdge(t, edge.Config{})
	s := serve(t, e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, seen(r)) })), edge.ServerConfig{})
	for name, test := range map[string]struct{ method, host, path, status string }{
		"plain":                {"GET", "a:80", "/v1?x=%20", "200"},
		"method with a space":  {"GET /x", "a", "/", "400"},
		"host with a space":    {"GET", "a b", "/", "400"},
		"host with a path":     {"GET", "a/b", "/", "400"},
		"query with a version": {"GET", "a", "/?x HTTP/1.1", "400"},
	} {
		conn := s.dial("127.0.0.1")
		fmt.Fprint(conn, http2.ClientPreface)
		framer := http2.NewFramer(conn, bufio.NewReader(conn))
		framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		var block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		for _, field := range [][2]string{{":method", test.method}, {":scheme", "http"}, {":authority", test.host}, {":path", test.path}} {
			_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
		}
		if err := errors.Join(framer.WriteSettings(), framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})); err != nil {
			t.Fatal(err)
		}
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if headers, ok := frame.(*http2.MetaHeadersFrame); ok {
				want(t, name, headers.PseudoValue("status"), test.status)
				break
			}
		}
		conn.Close()
	}
}
