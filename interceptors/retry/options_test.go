package retry_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// shop fails the first attempt, with traces of it in header and trailer.
type shop struct {
	catalogv1.UnimplementedCatalogServiceServer
	attempts atomic.Int32
	previous atomic.Value
}

func (s *shop) GetSweet(ctx context.Context, req *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	if s.attempts.Add(1) == 1 {
		_ = grpc.SetHeader(ctx, metadata.Pairs("attempt", "1"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("attempt", "1", "first", "yes"))
		return nil, status.Error(codes.Unavailable, "restarting")
	}
	incoming, _ := metadata.FromIncomingContext(ctx)
	s.previous.Store(incoming.Get("grpc-previous-rpc-attempts"))
	_ = grpc.SetHeader(ctx, metadata.Pairs("attempt", "2"))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("attempt", "2"))
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: req.GetId()}}, nil
}

// The contract of the sweet shop marks GetSweet NO_SIDE_EFFECTS and asks for 3
// attempts.
func TestCallLooksLikeItsLastAttempt(t *testing.T) {
	s := &shop{}
	client := serve(t, s)
	var header, trailer metadata.MD
	var from peer.Peer
	finished := 0
	reply, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "lemon-sherbet"},
		grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from), grpc.OnFinish(func(err error) {
			finished++
			if err != nil {
				t.Errorf("finished with %v", err)
			}
		}))
	if err != nil || reply.GetSweet().GetId() != "lemon-sherbet" || s.attempts.Load() != 2 {
		t.Fatalf("%v, %v after %d attempts", reply, err, s.attempts.Load())
	}
	if got := header.Get("attempt"); len(got) != 1 || got[0] != "2" {
		t.Errorf("header %v", header)
	}
	if got := trailer.Get("attempt"); len(got) != 1 || got[0] != "2" || len(trailer.Get("first")) != 0 {
		t.Errorf("trailer %v", trailer)
	}
	if from.Addr == nil {
		t.Error("no peer")
	}
	if finished != 1 {
		t.Errorf("finished %d times, want once", finished)
	}
	if previous, _ := s.previous.Load().([]string); len(previous) != 1 || previous[0] != "1" {
		t.Errorf("the server received %v earlier attempts, want 1", previous)
	}
}

// What a failed attempt left is gone before the next, which may never reach a
// server that would overwrite it.
func TestFailedAttemptLeavesNothing(t *testing.T) {
	b := newBackend(t, attempts(2))
	message := &catalogv1.GetSweetResponse{}
	var header, trailer metadata.MD
	var from peer.Peer
	number := 0
	err := b.interceptor(t.Context(), "/shop.Catalog/GetSweet", nil, message, nil,
		func(_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
			if number++; number == 1 {
				message.Sweet = &catalogv1.Sweet{Id: "half"}
				*opts[0].(grpc.HeaderCallOption).HeaderAddr = metadata.Pairs("attempt", "1")
				*opts[1].(grpc.TrailerCallOption).TrailerAddr = metadata.Pairs("attempt", "1")
				*opts[2].(grpc.PeerCallOption).PeerAddr = peer.Peer{Addr: &net.TCPAddr{Port: 1}, LocalAddr: &net.TCPAddr{Port: 2}}
			}
			return status.Error(codes.Unavailable, "no")
		}, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from))
	if err == nil || number != 2 || message.GetSweet() != nil || header != nil || trailer != nil || from != (peer.Peer{}) {
		t.Errorf("%v after %d attempts: left %v, %v, %v, %v", err, number, message, header, trailer, from)
	}
}

func serve(t *testing.T, s catalogv1.CatalogServiceServer) catalogv1.CatalogServiceClient {
	t.Helper()
	server := grpc.NewServer()
	catalogv1.RegisterCatalogServiceServer(server, s)
	listener := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	policies, err := interceptors.NewPolicies(nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := retry.New()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithUnaryInterceptor(r.UnaryClientInterceptor(policies)),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return catalogv1.NewCatalogServiceClient(conn)
}

func BenchmarkCall(b *testing.B) {
	r, err := retry.New()
	if err != nil {
		b.Fatal(err)
	}
	rule := attempts(3)
	rule.AllowSideEffects = ptr(true)
	interceptor := r.UnaryClient(meta(rule))
	b.ReportAllocs()
	for b.Loop() {
		_ = interceptor(b.Context(), "/shop.Catalog/GetSweet", nil, nil, nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil })
	}
}
