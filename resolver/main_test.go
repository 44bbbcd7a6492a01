package resolver_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/test/bufconn"

	_ "github.com/meshlite-go/meshlite/balancer/leastrequest"
	_ "github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func TestMain(m *testing.M) {
	for _, name := range []string{"CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE"} {
		os.Unsetenv(name)
	}
	// It is read once a process. Nothing is ever sent there.
	os.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	goleak.VerifyTestMain(m)
}

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// mesh is a stand-in agent, backends and channels to them, without a socket.
type mesh struct {
	t     testing.TB
	agent *consultest.Server

	mu       sync.Mutex
	backends map[string]*backend
	dials    int
	dead     map[string]func(context.Context) error // how a dial to an address without backend fails
}

// backend answers health checks and counts them.
type backend struct {
	listener *bufconn.Listener
	server   *grpc.Server
	calls    int
	conns    int
	open     int // of them, those that the client has not closed
	links    []net.Conn
	down     bool
}

func newMesh(t testing.TB) *mesh {
	m := &mesh{t: t, agent: consultest.New(), backends: map[string]*backend{}}
	t.Cleanup(m.agent.Close)
	t.Cleanup(func() {
		for _, b := range m.backends {
			b.server.Stop()
		}
	})
	return m
}

// start runs a backend at 10.0.0.n:80 and registers it as catalog-n.
func (m *mesh) start(n int) {
	m.t.Helper()
	b := &backend{listener: bufconn.Listen(1 << 16)}
	address := "10.0.0." + strconv.Itoa(n)
	b.server = grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		m.mu.Lock()
		b.calls++
		m.mu.Unlock()
		return next(ctx, req)
	}))
	healthv1.RegisterHealthServer(b.server, health.NewServer())
	m.mu.Lock()
	m.backends[net.JoinHostPort(address, "80")] = b
	m.mu.Unlock()
	go func() { _ = b.server.Serve(b.listener) }()
	m.register(n, consultest.Service{})
}

// register puts catalog-n into the agent, with what s says beside its address.
func (m *mesh) register(n int, s consultest.Service) {
	m.t.Helper()
	s.ID, s.Name, s.Address, s.Port = "catalog-"+strconv.Itoa(n), "catalog", "10.0.0."+strconv.Itoa(n), 80
	if err := m.agent.Register(s); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) dial(ctx context.Context, address string) (net.Conn, error) {
	m.mu.Lock()
	m.dials++
	b, fail := m.backends[address], m.dead[address]
	m.mu.Unlock()
	if b == nil && fail != nil {
		return nil, fail(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if b == nil || b.down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrNotExist}
	}
	conn, err := b.listener.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	b.conns++
	b.open++
	b.links = append(b.links, conn)
	return link{conn, sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		b.open--
	})}, nil
}

// directory reaches the agent.
func (m *mesh) directory() *consul.Directory {
	m.t.Helper()
	d, err := consul.New(consul.Config{Address: "127.0.0.1:8500", Transport: m.agent.Transport(), Logger: silent})
	if err != nil {
		m.t.Fatal(err)
	}
	return d
}

func (m *mesh) options(directory catalog.Watcher, opts ...resolver.Option) []grpc.DialOption {
	return append(resolver.DialOptions(directory, append([]resolver.Option{resolver.WithLogger(silent)}, opts...)...),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(m.dial))
}

// connect makes a channel to catalog. Its owner closes it.
func (m *mesh) connect(opts ...resolver.Option) *grpc.ClientConn {
	m.t.Helper()
	conn, err := grpc.NewClient("consul:///catalog", m.options(m.directory(), opts...)...)
	if err != nil {
		m.t.Fatal(err)
	}
	return conn
}

// call makes one call with a deadline of a minute.
func call(conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	return err
}

// count is how many calls each of the backends 1 to n has answered.
func (m *mesh) count(n int) []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	counts := make([]int, n)
	for i := range counts {
		if b := m.backends["10.0.0."+strconv.Itoa(i+1)+":80"]; b != nil {
			counts[i] = b.calls
		}
	}
	return counts
}

func (m *mesh) dialed() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dials
}

// connections is how many were ever made to backend n.
func (m *mesh) connections(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.backends["10.0.0."+strconv.Itoa(n)+":80"].conns
}

// dialLazily makes a channel over b. Its owner closes it.
func dialLazily(b *resolver.Builder) (*grpc.ClientConn, error) {
	return grpc.NewClient("consul:///catalog", grpc.WithResolvers(b), grpc.WithNoProxy(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// connected are the backends of 1 to n to which there is a connection.
func (m *mesh) connected(n int) []int {
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	var numbers []int
	for i := range n {
		if m.backends["10.0.0."+strconv.Itoa(i+1)+":80"].open > 0 {
			numbers = append(numbers, i+1)
		}
	}
	return numbers
}

// stop breaks the connections to backend n and makes no other, until back is called.
func (m *mesh) stop(n int) (back func()) {
	address := "10.0.0." + strconv.Itoa(n) + ":80"
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.backends[address]
	b.down = true
	for _, conn := range b.links {
		conn.Close()
	}
	b.links = nil
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		b.down = false
	}
}

// link is a connection to a backend.
type link struct {
	net.Conn
	closed func()
}

func (l link) Close() error {
	l.closed()
	return l.Conn.Close()
}
