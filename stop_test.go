package meshlite_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/freeport"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// deaf serves unary calls and streams that ignore their context.
type deaf struct {
	testgrpc.UnimplementedTestServiceServer
	entered, release chan struct{}
	running, most    atomic.Int64
}

func newDeaf(t *testing.T) *deaf {
	d := &deaf{entered: make(chan struct{}, 1000), release: make(chan struct{})}
	t.Cleanup(func() { close(d.release) })
	return d
}

func (d *deaf) hang() {
	running := d.running.Add(1)
	for most := d.most.Load(); running > most && !d.most.CompareAndSwap(most, running); most = d.most.Load() {
	}
	d.entered <- struct{}{}
	<-d.release
	d.running.Add(-1)
}

func (d *deaf) EmptyCall(context.Context, *testgrpc.Empty) (*testgrpc.Empty, error) {
	d.hang()
	return &testgrpc.Empty{}, nil
}

func (d *deaf) FullDuplexCall(grpc.BidiStreamingServer[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]) error {
	d.hang()
	return nil
}

// running is a server of any service, and a plain channel to it.
type running struct {
	conn  *grpc.ClientConn
	lines *journal
	stop  func() error // cancels Run and waits for it
}

// run runs a server with service until stop. Its lines are kept.
func (m *mesh) run(service testgrpc.TestServiceServer, opts ...meshlite.ServerOption) *running {
	m.t.Helper()
	address := freeport.For(m.t)
	lines := &journal{}
	server, err := meshlite.NewServer("catalog", append([]meshlite.ServerOption{
		meshlite.WithPlaintext(), meshlite.WithDirectory(m.directory), meshlite.WithLogger(slog.New(slog.NewJSONHandler(lines, nil))),
		meshlite.WithRuntime(newRuntime(m.t)), meshlite.WithMetricsAddress(""), meshlite.WithListenAddress(address),
	}, opts...)...)
	if err != nil {
		m.t.Fatal(err)
	}
	testgrpc.RegisterTestServiceServer(server, service)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	lines.await(m.t, 1, "serving")
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close(); cancel() })
	return &running{conn, lines, func() error { cancel(); return <-ended }}
}

// X14: Every documented bound holds against user code that hangs: Run ends although
// handlers ignore everything, and what cannot be stopped is named in the log.
//
// Case X14 (server): Run ends in time though handlers, interceptors or the directory hang or
// panic, and names what it leaves behind.
func TestRunEndsThoughHandlersAreDeaf(t *testing.T) {
	m, d := newMesh(t), newDeaf(t)
	r := m.run(d, meshlite.WithDrain(0, 50*time.Millisecond))
	client := testgrpc.NewTestServiceClient(r.conn)
	begun := time.Now()
	for range 2 {
		go func() { _, _ = client.EmptyCall(context.Background(), &testgrpc.Empty{}) }()
		<-d.entered
	}
	if _, err := client.FullDuplexCall(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-d.entered
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if n := d.running.Load(); n != 3 {
		t.Errorf("%d handlers are left behind, want 3", n)
	}
	calls := map[string]float64{}
	for _, line := range r.lines.named(t, "a handler does not end although its call was cut off: it is left running") {
		calls[line["method"].(string)] = line["calls"].(float64)
		if since, err := time.Parse(time.RFC3339, line["since"].(string)); err != nil || since.Before(begun) || since.After(time.Now()) {
			t.Errorf("since is %v, %v", line["since"], err)
		}
	}
	if len(calls) != 2 || calls["/grpc.testing.TestService/EmptyCall"] != 2 || calls["/grpc.testing.TestService/FullDuplexCall"] != 1 {
		t.Errorf("the log names %v", calls)
	}
}

// A connection whose reader waits for a handler does not end either: the number of
// handlers is bounded, and gRPC reads on when one returns.
//
// Case X14 (server)
func TestRunEndsThoughAConnectionWaitsForAHandler(t *testing.T) {
	m, d := newMesh(t), newDeaf(t)
	r := m.run(d, meshlite.WithDrain(0, 50*time.Millisecond), meshlite.WithServerOptions(grpc.MaxConcurrentStreams(1)))
	client := testgrpc.NewTestServiceClient(r.conn)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-d.entered; cancel() }()
	if _, err := client.EmptyCall(ctx, &testgrpc.Empty{}); status.Code(err) != codes.Canceled {
		t.Fatal(err)
	}
	waiting, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := client.EmptyCall(waiting, &testgrpc.Empty{}); status.Code(err) != codes.DeadlineExceeded {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

// An interceptor of the user's that hangs is named too, wherever it stands.
//
// Case X14 (server)
func TestAnInterceptorThatHangsIsNamed(t *testing.T) {
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	entered := make(chan struct{})
	hangs := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if info.FullMethod == testgrpc.TestService_EmptyCall_FullMethodName {
			entered <- struct{}{}
			<-release
		}
		return handler(ctx, req)
	}
	r := newMesh(t).run(newDeaf(t), meshlite.WithDrain(0, 0), meshlite.WithServerOptions(grpc.ChainUnaryInterceptor(hangs)))
	go func() {
		_, _ = testgrpc.NewTestServiceClient(r.conn).EmptyCall(context.Background(), &testgrpc.Empty{})
	}()
	<-entered
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if n := len(r.lines.named(t, "a handler does not end although its call was cut off: it is left running")); n != 1 {
		t.Errorf("%d lines name it, want 1", n)
	}
}

// Stopping says so: leaving, draining with the calls in flight, stopped, each one line at
// info, and no other line above debug when all goes well. A health watch delays nothing.
//
// Case G2
func TestAStopIsThreeLines(t *testing.T) {
	m := newMesh(t)
	r := m.run(&testgrpc.UnimplementedTestServiceServer{}, meshlite.WithDrain(0, time.Hour))
	watch, err := healthv1.NewHealthClient(r.conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	for err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Canceled {
		t.Errorf("the watch ends with %v, want CANCELED", err)
	}
	var got []string
	for _, line := range r.lines.named(t, "") {
		got = append(got, fmt.Sprint(line["level"], " ", line["msg"]))
	}
	want := []string{"INFO serving", "INFO leaving Consul, and still accepting calls", "INFO draining: no new calls", "INFO stopped"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("logged %q, want %q", got, want)
	}
}

// The calls in flight are in the line.
//
// Case G2
func TestDrainingSaysHowManyCallsRun(t *testing.T) {
	d := &deaf{entered: make(chan struct{}), release: make(chan struct{})}
	r := newMesh(t).run(d, meshlite.WithDrain(0, time.Hour))
	answered := make(chan error)
	go func() {
		_, err := testgrpc.NewTestServiceClient(r.conn).EmptyCall(context.Background(), &testgrpc.Empty{})
		answered <- err
	}()
	<-d.entered
	stopped := make(chan error)
	go func() { stopped <- r.stop() }()
	if calls := r.lines.await(t, 1, "draining: no new calls")[0]["calls"]; calls != 1.0 {
		t.Errorf("%v calls in flight, want 1", calls)
	}
	close(d.release)
	if err := <-answered; err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A directory of the user's own that hangs or panics keeps no server from stopping.
//
// Case X14 (server)
func TestRunEndsThoughTheDirectoryIsBroken(t *testing.T) {
	for name, deregister := range map[string]func(release chan struct{}){
		"hangs":  func(release chan struct{}) { <-release },
		"panics": func(chan struct{}) { panic("no lease") },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t)
			release := make(chan struct{})
			t.Cleanup(func() { close(release) })
			broken := &brokenDirectory{Directory: m.directory, deregister: func() { deregister(release) }}
			r := m.run(&testgrpc.UnimplementedTestServiceServer{}, meshlite.WithDirectory(broken), meshlite.WithDrain(0, time.Hour))
			if err := r.stop(); err != nil {
				t.Error(err)
			}
			want := map[string]string{"hangs": "does not end: it is left running", "panics": "a panic while stopping"}[name]
			if n := len(r.lines.named(t, want)); n != 1 {
				t.Errorf("%d lines say %q, want 1", n, want)
			}
		})
	}
}

type brokenDirectory struct {
	meshlite.Directory
	deregister func()
}

func (d *brokenDirectory) Register(ctx context.Context, r catalog.Registration) (catalog.Lease, error) {
	lease, err := d.Directory.Register(ctx, r)
	return brokenLease{lease, d}, err
}

type brokenLease struct {
	catalog.Lease
	directory *brokenDirectory
}

func (l brokenLease) Deregister(ctx context.Context) error {
	defer func() { _ = l.Lease.Deregister(ctx) }()
	l.directory.deregister()
	return nil
}
