package consul_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func TestMain(m *testing.M) {
	for _, name := range []string{"CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE"} {
		os.Unsetenv(name)
	}
	goleak.VerifyTestMain(m)
}

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// newDirectory reaches agent without a socket.
func newDirectory(t testing.TB, agent *consultest.Server, config consul.Config) *consul.Directory {
	t.Helper()
	config.Address, config.Transport, config.Logger = "127.0.0.1:8500", agent.Transport(), silent
	d, err := consul.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// reports collects the reports of a watch.
type reports struct {
	mu        sync.Mutex
	snapshots []catalog.Snapshot
	errs      []error
	news      chan struct{}
	stop      func()
}

// watch follows q until stop, which waits for the watch to end.
func watch(d catalog.Watcher, q catalog.Query) *reports {
	r := &reports{news: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Watch(ctx, q, r.report)
	}()
	r.stop = func() { cancel(); <-done }
	return r
}

func (r *reports) report(s catalog.Snapshot, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.errs = append(r.errs, err)
	} else {
		r.snapshots = append(r.snapshots, s)
	}
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (r *reports) lastError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.errs) == 0 {
		return nil
	}
	return r.errs[len(r.errs)-1]
}

func (r *reports) last() (catalog.Snapshot, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.snapshots) == 0 {
		return catalog.Snapshot{}, 0
	}
	return r.snapshots[len(r.snapshots)-1], len(r.snapshots)
}

// await waits until the last snapshot has just these addresses.
func (r *reports) await(t *testing.T, addresses ...string) catalog.Snapshot {
	t.Helper()
	slices.Sort(addresses)
	deadline := time.After(20 * time.Second)
	for {
		if s, n := r.last(); n > 0 && slices.Equal(addressesOf(s), addresses) {
			return s
		}
		select {
		case <-r.news:
		case <-deadline:
			s, _ := r.last()
			t.Fatalf("the watch reports %v, want %v; last error: %v", addressesOf(s), addresses, r.lastError())
		}
	}
}

func addressesOf(s catalog.Snapshot) []string {
	addresses := []string{}
	for _, i := range s.Instances {
		addresses = append(addresses, i.Address)
	}
	return addresses
}

// serveHealth runs a gRPC server that says it is healthy.
func serveHealth(t *testing.T) string {
	address, _ := serveHealthUntil(t)
	return address
}

// serveHealthUntil is serveHealth until crash is called.
func serveHealthUntil(t *testing.T) (address string, crash func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	healthv1.RegisterHealthServer(server, health.NewServer())
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	crash = func() { server.Stop(); <-done }
	t.Cleanup(crash)
	return listener.Addr().String(), crash
}
