package consulca_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/proto-public/pbconnectca"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meshlite-go/meshlite/internal/certtest"
)

const leafLife = time.Hour // Consul's shortest

// consulServer is a Consul server's CA service, as far as a source needs it.
type consulServer struct {
	pbconnectca.UnimplementedConnectCAServiceServer
	t     testing.TB
	token string // that is demanded, "" is none

	mu          sync.Mutex
	trustDomain string
	roots       []*certtest.Authority // the last one signs
	down        bool
	denied      bool
	changed     chan struct{}
	signed      []time.Time
	keys        []any // public ones
	failure     error // of Sign
}

func newServer(t testing.TB) *consulServer {
	return &consulServer{t: t, trustDomain: "one.consul", roots: []*certtest.Authority{certtest.New(t)}, changed: make(chan struct{})}
}

// change does what with the state locked.
func (s *consulServer) change(what func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	what()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *consulServer) addRoot() {
	root := certtest.New(s.t)
	s.change(func() { s.roots = append(s.roots, root) })
}

func (s *consulServer) dropOldRoots() { s.change(func() { s.roots = s.roots[len(s.roots)-1:] }) }

func (s *consulServer) setReachable(is bool) { s.change(func() { s.down = !is }) }

func (s *consulServer) setAllowed(is bool) { s.change(func() { s.denied = !is }) }

func (s *consulServer) signedAt() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.signed...)
}

func (s *consulServer) authorize(ctx context.Context) error {
	sent, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	denied := s.denied
	s.mu.Unlock()
	if values := sent.Get("x-consul-token"); denied || s.token != "" && (len(values) != 1 || values[0] != s.token) {
		return status.Error(codes.PermissionDenied, "Permission denied: token lacks permission 'service:write' on \"catalog\"")
	}
	return nil
}

func (s *consulServer) WatchRoots(_ *pbconnectca.WatchRootsRequest, stream grpc.ServerStreamingServer[pbconnectca.WatchRootsResponse]) error {
	for {
		if err := s.authorize(stream.Context()); err != nil {
			return err
		}
		s.mu.Lock()
		down, changed := s.down, s.changed
		answer := &pbconnectca.WatchRootsResponse{TrustDomain: s.trustDomain}
		for _, root := range s.roots {
			answer.ActiveRootId = root.Certificate().SerialNumber.String()
			answer.Roots = append(answer.Roots, &pbconnectca.CARoot{Id: answer.ActiveRootId, RootCert: string(root.PEM)})
		}
		s.mu.Unlock()
		if down {
			return status.Error(codes.Unavailable, "down")
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (s *consulServer) Sign(ctx context.Context, request *pbconnectca.SignRequest) (*pbconnectca.SignResponse, error) {
	if err := s.authorize(ctx); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(request.GetCsr()))
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, status.Error(codes.InvalidArgument, "no request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err == nil && len(csr.URIs) != 1 {
		err = errors.New("not one URI")
	}
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, status.Error(codes.Unavailable, "down")
	}
	if s.failure != nil {
		return nil, s.failure
	}
	leaf, err := s.roots[len(s.roots)-1].SignKey(certtest.IDTemplate(s.t, leafLife, csr.URIs[0].String()), csr.PublicKey)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	s.signed, s.keys = append(s.signed, time.Now()), append(s.keys, csr.PublicKey)
	return &pbconnectca.SignResponse{CertPem: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}))}, nil
}

// serve returns a channel to s.
func (s *consulServer) serve() *grpc.ClientConn {
	listener := bufconn.Listen(1 << 16)
	g := grpc.NewServer()
	pbconnectca.RegisterConnectCAServiceServer(g, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///consul", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close(); g.Stop(); <-done })
	return conn
}
