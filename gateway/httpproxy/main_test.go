package httpproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	_ "github.com/meshlite-go/meshlite/balancer/leastrequest"
	_ "github.com/meshlite-go/meshlite/balancer/peakewma"
	_ "github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/gateway/httpproxy"
	"github.com/meshlite-go/meshlite/internal/child"
)

const serverVariable = "HTTPPROXY_TEST_SERVER"

// TestMain is also the small HTTP server that tests start as a process: the variable is its
// address, its time to answer and the file to which it writes the ids of POSTs.
func TestMain(m *testing.M) {
	if words := strings.Fields(os.Getenv(serverVariable)); len(words) == 3 {
		fmt.Println(serve(words[0], words[1], words[2]))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func serve(address, pause, posts string) error {
	delay, err := time.ParseDuration(pause)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(posts, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			id, _ := io.ReadAll(r.Body)
			fmt.Fprintf(file, "%s\n", id)
		}
		time.Sleep(delay)
		fmt.Fprint(w, listener.Addr())
	}))
}

// process is a small HTTP server.
type process struct {
	*exec.Cmd
	address string
}

func (p *process) url() string { return "http://" + p.address }

// kill is kill -9.
func (p *process) kill() {
	_ = p.Process.Kill()
	_ = p.Wait()
}

func start(t *testing.T, address string, pause time.Duration, posts string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0])}
	p.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", serverVariable, address, pause, posts))
	p.SysProcAttr = child.OwnGroup()
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	p.address = strings.TrimSpace(line)
	if _, _, err := net.SplitHostPort(p.address); err != nil {
		t.Fatal(line)
	}
	return p
}

// backend is a server in this process that counts its requests.
type backend struct {
	*httptest.Server
	requests atomic.Int64
}

func newBackend(t *testing.T, handler http.HandlerFunc) *backend {
	t.Helper()
	b := &backend{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.requests.Add(1)
		handler(w, r)
	}))
	t.Cleanup(b.Close)
	return b
}

func fine(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "fine") }

var silent = slog.New(slog.DiscardHandler)

// newProxy is a proxy at /web/ in front of urls.
func newProxy(t *testing.T, config httpproxy.Config, urls ...string) *httpproxy.Proxy {
	t.Helper()
	if config.Name == "" {
		config.Name = "web"
	}
	if config.Prefix == "" {
		config.Prefix = "/web/"
	}
	if config.Policy == "" {
		config.Policy = "round_robin"
	}
	if config.Log == nil {
		config.Log = silent
	}
	config.URLs = urls
	p, err := httpproxy.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// do sends a request through h.
func do(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	h.ServeHTTP(w, httptest.NewRequest(method, path, reader))
	return w
}

// load sends requests from some callers at once.
func load(callers, requests int, send func(n int)) {
	var next atomic.Int64
	var wait sync.WaitGroup
	for range callers {
		wait.Go(func() {
			for {
				n := int(next.Add(1))
				if n > requests {
					return
				}
				send(n)
			}
		})
	}
	wait.Wait()
}

// eventually waits for what happens in the background.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for range 3000 {
		if happened() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s: it does not happen", what)
}
