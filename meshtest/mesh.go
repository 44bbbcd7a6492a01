package meshtest

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// Mesh is a directory and a network, with the servers and clients of one test. It is safe
// for concurrent use, but for what fails the test: call Serve, Client and faults from the
// test's own goroutine.
type Mesh struct {
	// Agent is the directory. Order its faults there.
	Agent *consultest.Server
	// Runtime is that of all clients: their metrics, their cache.
	Runtime *meshlite.Runtime

	t         testing.TB
	network   *network
	directory *consul.Directory // of clients
	config    config
	log       *slog.Logger
}

type config struct {
	callers *caller.Callers
	agent   []consultest.Option
}

// Option changes what [New] makes.
type Option func(*config)

// WithCallers sets who callers are and whom to trust, on all servers and clients, as
// [meshlite.RuntimeConfig] does for a program. Default: those of package caller.
func WithCallers(callers *caller.Callers) Option {
	return func(c *config) { c.callers = callers }
}

// WithAgent passes options on to the agent, such as [consultest.WithACL].
func WithAgent(options ...consultest.Option) Option {
	return func(c *config) { c.agent = append(c.agent, options...) }
}

// New makes a mesh without servers, which ends with the test. Logs go to the output of the
// test unless an option of a server or a client says otherwise.
func New(t testing.TB, opts ...Option) *Mesh {
	t.Helper()
	m := &Mesh{t: t, network: newNetwork(), log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, o := range opts {
		o(&m.config)
	}
	agent := m.network.host() // it has probes, and no listener
	m.Agent = consultest.New(append([]consultest.Option{consultest.WithDialer(agent.DialContext)}, m.config.agent...)...)
	t.Cleanup(m.Agent.Close)
	m.Runtime, m.directory = m.process(m.network.host())
	return m
}

// process makes what a process has of its own.
func (m *Mesh) process(h *host) (*meshlite.Runtime, *consul.Directory) {
	m.t.Helper()
	runtime, err := meshlite.NewRuntime(meshlite.RuntimeConfig{Callers: m.config.callers, Network: h})
	if err != nil {
		m.t.Fatal(err)
	}
	directory, err := consul.New(consul.Config{Transport: directory{h, m.Agent.Transport()}, Logger: m.log})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(directory.Close)
	return runtime, directory
}

// Client makes a channel to target, which is the name of a service or a target as
// [meshlite.NewClient] takes it. opts are the program's own, but that WithRuntime and
// WithDirectory are replaced; without transport security among them it is plaintext.
// The test fails if an option is wrong.
func (m *Mesh) Client(target string, opts ...meshlite.ClientOption) *grpc.ClientConn {
	m.t.Helper()
	if !strings.Contains(target, ":") {
		target = "consul:///" + target
	}
	all := append([]meshlite.ClientOption{defaults(m.log)}, opts...)
	conn, err := meshlite.NewClient(target, append(all, meshlite.WithRuntime(m.Runtime), meshlite.WithDirectory(m.directory))...)
	if err != nil {
		m.t.Fatalf("meshtest: Client %q: %v", target, err)
	}
	m.t.Cleanup(func() { conn.Close() }) //nolint:errcheck // the test may have closed it
	return conn
}

// defaults stand before the options of the program.
func defaults(log *slog.Logger) meshlite.Options {
	return meshlite.Options{meshlite.WithTransportCredentials(insecure.NewCredentials()), meshlite.WithLogger(log)}
}

// Serve starts an instance of service, with what register registers, and returns when it is
// in the directory. opts are the program's own, but that WithRuntime, WithDirectory and the
// addresses (WithListenAddress, WithAdvertisedAddress, WithMetricsAddress) are replaced;
// without transport security among them it is plaintext, and without WithDrain it leaves
// without a pause. The test fails if an option is wrong or the server does not start.
func (m *Mesh) Serve(service string, register func(grpc.ServiceRegistrar), opts ...meshlite.ServerOption) *Instance {
	m.t.Helper()
	h := m.network.host()
	runtime, directory := m.process(h)
	all := append([]meshlite.ServerOption{defaults(m.log), meshlite.WithDrain(0, defaultStopTimeout)}, opts...)
	server, err := meshlite.NewServer(service, append(all, meshlite.WithRuntime(runtime), meshlite.WithDirectory(directory),
		meshlite.WithListenAddress("0"), meshlite.WithAdvertisedAddress(h.address.String()), meshlite.WithMetricsAddress(""))...)
	if err != nil {
		m.t.Fatalf("meshtest: Serve %q: %v", service, err)
	}
	i := &Instance{Server: server, Runtime: runtime, mesh: m, host: h, service: service, ended: make(chan error, 1)}
	register(faulty{server, i})
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.t.Context()))
	i.stop = cancel
	go func() { i.ended <- server.Run(ctx) }()
	m.t.Cleanup(i.close)
	select {
	case <-server.Ready():
	case err := <-i.ended:
		i.ended <- err
		m.t.Fatalf("meshtest: Serve %q: %v", service, err)
	}
	i.Address = server.Addr().String()
	return i
}
