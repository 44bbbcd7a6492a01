package consultest_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// request sends one over a connection that stays open and returns the answer.
func request(t *testing.T, c net.Conn) answer {
	t.Helper()
	_, err := io.WriteString(c, "GET /v1/status/leader HTTP/1.1\r\nHost: consul\r\n\r\n")
	must(t, err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	must(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	return answer{res.StatusCode, res.Header, string(body)}
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// As with Consul's http_max_conns_per_client, the connection over the limit is
// answered 429 and closed, and the others go on.
func TestConnectionsAreCountedAndLimited(t *testing.T) {
	s := consultest.New(consultest.WithMaxConnections(2))
	defer s.Close()
	addr, err := s.Listen("127.0.0.1:0")
	must(t, err)

	first, second, third := dial(t, addr), dial(t, addr), dial(t, addr)
	for _, c := range []net.Conn{first, second} {
		if got := request(t, c); got.code != 200 {
			t.Errorf("got %+v", got)
		}
	}
	got := request(t, third)
	if got.code != 429 || got.body != "Your IP is issuing too many concurrent connections, please rate limit your calls\n" {
		t.Errorf("got %+v", got)
	}
	if _, err := third.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection goes on: %v", err)
	}
	waitFor(t, func() bool { open, most := s.Connections(); return open == 2 && most == 3 })
	must(t, first.Close())
	waitFor(t, func() bool { open, _ := s.Connections(); return open == 1 })
	if got := request(t, dial(t, addr)); got.code != 200 {
		t.Errorf("with room again got %+v", got)
	}
	s.Close()
	if open, most := s.Connections(); open != 0 || most != 3 {
		t.Errorf("closed, with %d connections open, %d at most", open, most)
	}
}

// A client that has its answer gets nothing more when the connection is broken: bytes
// without a question are a bug to net/http, and it logs them.
func TestNothingIsSaidAfterAnAnswer(t *testing.T) {
	s := consultest.New()
	defer s.Close()
	addr, err := s.Listen("127.0.0.1:0")
	must(t, err)
	for range 300 {
		c := dial(t, addr)
		request(t, c)
		s.Restart()
		if rest, _ := io.ReadAll(c); len(rest) > 0 {
			t.Fatalf("after its answer a client reads %q", rest)
		}
	}
}
