package httpproxy_test

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/meshlite-go/meshlite/gateway/httpproxy"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

// logged is a log that can be read meanwhile.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

const (
	lost = "instance cannot be reached"
	back = "instance can be reached again"
)

// An outage is logged when it begins and when it ends, however many requests meet it.
func TestAnOutageIsLoggedOnce(t *testing.T) {
	dead := start(t, "127.0.0.1:0", 0, t.TempDir()+"/posts")
	alive := newBackend(t, fine)
	log := &logged{}
	p := newProxy(t, httpproxy.Config{Log: slog.New(slog.NewTextHandler(log, nil))}, dead.url(), alive.URL)
	ask := func(int) {
		if w := do(p, http.MethodGet, "/web/", ""); w.Code != http.StatusOK {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
	}
	for outage := 1; outage <= 3; outage++ {
		load(4, 40, ask)
		dead.kill()
		eventually(t, "the outage is logged", func() bool { ask(0); return log.count(lost) >= outage })
		load(8, 400, ask)
		dead = start(t, dead.address, 0, t.TempDir()+"/posts")
		eventually(t, "its end is logged", func() bool { return log.count(back) >= outage })
		load(8, 80, ask)
		if log.count(lost) != outage || log.count(back) != outage {
			t.Errorf("after %d outages: %d begin in the log, and %d end", outage, log.count(lost), log.count(back))
		}
	}
}

// An attempt that is slow to fail does not take out an instance that has come back meanwhile.
func TestAnAttemptOfAnOutageThatIsOverCountsNoMore(t *testing.T) {
	authority := certtest.New(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	held := make(chan net.Conn, 1)
	conns.Go(func() {
		first, err := listener.Accept() // waits for its handshake
		if err != nil {
			return
		}
		held <- first
		second, err := listener.Accept() // has none
		if err != nil {
			return
		}
		_ = second.Close()
		secured := tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{authority.Issue(t, "127.0.0.1")}})
		_ = http.Serve(secured, http.HandlerFunc(fine))
	})
	defer conns.Wait()
	defer listener.Close()
	log := &logged{}
	p := newProxy(t, httpproxy.Config{Log: slog.New(slog.NewTextHandler(log, nil)), TLS: &tls.Config{RootCAs: authority.Roots}}, "https://"+listener.Addr().String())
	defer p.Close()
	var requests sync.WaitGroup
	defer requests.Wait()
	requests.Go(func() { do(p, http.MethodGet, "/web/", "") })
	first := <-held
	requests.Go(func() { do(p, http.MethodGet, "/web/", "") })
	eventually(t, "the instance is back", func() bool { return log.count(back) == 1 })
	_ = first.Close()
	requests.Wait()
	if w := do(p, http.MethodGet, "/web/", ""); w.Code != http.StatusOK || log.count(lost) != 1 {
		t.Errorf("after the slow attempt: status %d, %d outages in the log, want one", w.Code, log.count(lost))
	}
}
