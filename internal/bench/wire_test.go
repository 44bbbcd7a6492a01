package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

// hit is a request over HTTP/1.1.
type hit struct {
	method, path, body string
	confirms           bool // sends the ETag of an answer, so that the next ones are 304
}

var (
	getEcho   = hit{method: http.MethodGet, path: "/v1/echo/" + benchkit.Text}
	postEcho  = hit{method: http.MethodPost, path: "/v1/echo", body: `{"text":"` + benchkit.Text + `"}`}
	getCached = hit{method: http.MethodGet, path: "/v1/cached/" + benchkit.Text}
	confirmed = hit{method: http.MethodGet, path: "/v1/cached/" + benchkit.Text, confirms: true}
)

// overHTTP dials what start starts. Callers have a connection each.
func overHTTP(start func(testing.TB, *backends) door, h hit) func(testing.TB, *backends) dial {
	return func(t testing.TB, b *backends) dial {
		d := start(t, b)
		return func(t testing.TB) benchkit.Clients {
			t.Helper()
			w := &wires{proxy: d.pid}
			for range benchkit.Callers {
				c, err := newWire(d.address, h)
				if err != nil {
					t.Fatal(err)
				}
				w.all = append(w.all, c)
			}
			return w
		}
	}
}

// wires are clients over HTTP/1.1, one for each caller.
type wires struct {
	all   []*wire
	proxy int
}

func (w *wires) Call(i int) func() (string, error) { return w.all[i].call }
func (w *wires) Group() int                        { return w.proxy }

func (w *wires) Close() {
	for _, c := range w.all {
		c.conn.Close()
	}
}

// wire is one connection that is kept, on which the same request is written again and again,
// as load generators do: net/http's own client would take more CPU than some of what is
// measured.
type wire struct {
	conn    net.Conn
	reader  *bufio.Reader
	request []byte
	status  int
	etag    string
	body    bytes.Buffer
}

func newWire(address string, h hit) (*wire, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute + *window)) // rather than to wait for ever
	c := &wire{conn: conn, reader: bufio.NewReader(conn), status: http.StatusOK}
	c.request = fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\n", h.method, h.path, address)
	if h.body != "" {
		c.request = fmt.Appendf(c.request, "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(h.body), h.body)
		return c, nil
	}
	if h.confirms {
		plain := *c
		plain.request = append(bytes.Clone(c.request), "\r\n"...)
		if _, err := plain.call(); err != nil {
			conn.Close()
			return nil, err
		}
		c.request = fmt.Appendf(c.request, "If-None-Match: %s\r\n", plain.etag)
		c.status = http.StatusNotModified
	}
	c.request = append(c.request, "\r\n"...)
	return c, nil
}

// call writes the request, and reads the answer to its end.
func (c *wire) call() (backend string, err error) {
	if _, err := c.conn.Write(c.request); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return "", err
	}
	c.body.Reset()
	if _, err := io.Copy(&c.body, response.Body); err != nil {
		return "", err
	}
	c.etag = response.Header.Get("Etag")
	body := c.body.Bytes()
	switch {
	case response.StatusCode != c.status:
		return "", fmt.Errorf("the answer is %s, want %d: %s", response.Status, c.status, body)
	case c.status == http.StatusNotModified:
		return "", nil
	case !bytes.Contains(body, []byte(benchkit.Text)):
		return "", fmt.Errorf("the answer is %s, want what was asked", body)
	}
	_, after, _ := bytes.Cut(body, []byte(`"backend"`)) // there may be space around the colon
	after = bytes.TrimLeft(after, `: "`)
	return string(after[:min(1, len(after))]), nil
}
