package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const domain = "11111111-2222-3333-4444-555555555555.consul"

// idOf is the id of a service where all others of a test are.
func idOf(service string) identity.ID {
	return identity.ID{TrustDomain: domain, Partition: "default", Namespace: "default", Datacenter: "dc1", Service: service}
}

func snapshot(t testing.TB, leaf tls.Certificate, roots ...*certtest.Authority) *identity.Snapshot {
	t.Helper()
	var all []*x509.Certificate
	for _, root := range roots {
		all = append(all, root.Certificate())
	}
	s, err := identity.NewSnapshot(leaf, all)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func feed(s *identity.Snapshot) *identity.Feed {
	f := &identity.Feed{}
	f.Publish(s)
	return f
}

// of are credentials of a service, signed by authority.
func of(t testing.TB, authority *certtest.Authority, service string, opts ...identity.Option) *identity.Credentials {
	t.Helper()
	return with(t, feed(snapshot(t, authority.IssueID(t, time.Hour, idOf(service).String()), authority)), opts...)
}

func with(t testing.TB, source identity.Source, opts ...identity.Option) *identity.Credentials {
	t.Helper()
	c, err := identity.New(source, append([]identity.Option{identity.WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// server answers health checks, and records who called.
type server struct {
	healthv1.UnimplementedHealthServer
	address string
	calls   atomic.Int64
	callers *caller.Callers

	mu     sync.Mutex
	caller string
}

func (s *server) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	s.calls.Add(1)
	identity, err := s.callers.Incoming(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.caller = identity
	return &healthv1.HealthCheckResponse{}, err
}

func (s *server) lastCaller() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.caller
}

func (s *server) Watch(_ *healthv1.HealthCheckRequest, stream grpc.ServerStreamingServer[healthv1.HealthCheckResponse]) error {
	s.calls.Add(1)
	if err := stream.Send(&healthv1.HealthCheckResponse{}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func serve(t testing.TB, creds credentials.TransportCredentials, opts ...grpc.ServerOption) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{address: listener.Addr().String()}
	g := grpc.NewServer(append(opts, grpc.Creds(creds))...)
	healthv1.RegisterHealthServer(g, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(listener) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return s
}

// dial makes a channel to s as the service "catalog".
func dial(t testing.TB, s *server, creds credentials.TransportCredentials, opts ...grpc.DialOption) healthv1.HealthClient {
	t.Helper()
	return healthv1.NewHealthClient(dialConn(t, s, creds, opts...))
}

func dialConn(t testing.TB, s *server, creds credentials.TransportCredentials, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+s.address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds), grpc.WithAuthority("catalog"), grpc.WithNoProxy()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func check(t testing.TB, client healthv1.HealthClient, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := client.Check(ctx, &healthv1.HealthCheckRequest{}, opts...)
	return err
}

// logged collects lines.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// eventually waits for what another goroutine is about to do.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// One value secures both ends.
func Example() {
	files, err := identity.Files(identity.FilesConfig{Certificate: "tls.crt", Key: "tls.key", Roots: "ca.crt"})
	if err != nil {
		fmt.Println("no certificate")
		return
	}
	mtls, err := identity.New(files)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(grpc.NewServer(grpc.Creds(mtls)), grpc.WithTransportCredentials(mtls))
	// Output: no certificate
}
