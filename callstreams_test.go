package meshlite_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/callstream"
	"github.com/meshlite-go/meshlite/meshtest"
	callv1 "github.com/meshlite-go/meshlite/proto/meshlite/call/v1"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// streamed counts what a server sees of call streams.
type streamed struct {
	catalogv1.UnimplementedCatalogServiceServer
	open, opened atomic.Int64
	shared       atomic.Int64 // calls that came over them
}

func (s *streamed) GetSweet(ctx context.Context, r *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	if stream := fmt.Sprintf("%T", grpc.ServerTransportStreamFromContext(ctx)); stream == "*callstream.transport" {
		s.shared.Add(1)
	}
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: r.GetId()}}, nil
}

func (s *streamed) intercept(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if callstream.Own(info.FullMethod) {
		s.opened.Add(1)
		s.open.Add(1)
		defer s.open.Add(-1)
	}
	return handler(srv, stream)
}

// A channel and a server that share streams do all that they do without: limits count each call,
// the server's interceptors run around each. Streams without calls end, and come back.
func TestCallStreams(t *testing.T) {
	t.Setenv("MESHLITE_CALL_STREAMS", "true")
	synctest.Test(t, func(t *testing.T) {
		s := &streamed{}
		mesh := meshtest.New(t)
		limit := uint64(5)
		mesh.Serve("catalog", func(r grpc.ServiceRegistrar) { catalogv1.RegisterCatalogServiceServer(r, s) },
			meshlite.WithServerOptions(grpc.ChainStreamInterceptor(s.intercept)),
			meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
				RateLimits: []*policyv1.RateLimitRule{{Name: "few", Limit: &limit}}}}))
		catalog := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", uncachedCalls()))
		call := func() error {
			r, err := catalog.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "fudge"})
			if err == nil && r.GetSweet().GetId() != "fudge" {
				t.Errorf("got %v", r)
			}
			return err
		}
		for range 4 {
			if err := call(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if s.shared.Load() != 2 || s.opened.Load() != 1 {
			t.Errorf("of 4 calls %d were shared, over %d streams: want all but the first two, over one", s.shared.Load(), s.opened.Load())
		}
		_ = call()
		if err := call(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("the call above the limit: %v, want RESOURCE_EXHAUSTED", err)
		}
		time.Sleep(time.Minute)
		if n := s.open.Load(); n != 0 {
			t.Errorf("after a minute without calls %d streams are open", n)
		}
		if err := call(); err != nil || s.open.Load() != 1 {
			t.Errorf("the next call: %v, over one of %d streams", err, s.open.Load())
		}
	})
}

// Unless both ends are asked to, each call has a stream of its own.
func TestCallStreamsAreOff(t *testing.T) {
	for name, ends := range map[string]struct{ client, server bool }{
		"neither": {}, "the client alone": {client: true}, "the server alone": {server: true}, "both": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("MESHLITE_CALL_STREAMS", "")
			s := &streamed{}
			m := newMesh(t)
			m.serveCatalog(s, meshlite.WithPlaintext(), meshlite.WithRuntime(configured(t, meshlite.RuntimeConfig{CallStreams: ends.server})))
			catalog, _ := m.client("consul:///catalog", uncachedCalls(), meshlite.WithRuntime(configured(t, meshlite.RuntimeConfig{CallStreams: ends.client})))
			both := ends.client && ends.server
			for n := 0; n < 20 || both && s.shared.Load() == 0 && n < 2000; n++ {
				if _, err := catalog.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "fudge"}, grpc.WaitForReady(true)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
			if shared := s.shared.Load() > 0; shared != both {
				t.Errorf("calls share streams: %v", shared)
			}
		})
	}
}

// The streams of a connection are bounded, whoever opens them: no interceptor sees them.
func TestCallStreamsAreBounded(t *testing.T) {
	t.Setenv("MESHLITE_CALL_STREAMS", "true")
	m := newMesh(t)
	m.serveCatalog(&streamed{}, meshlite.WithPlaintext())
	conn, err := grpc.NewClient(m.instances("catalog")[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	calls := callv1.NewCallServiceClient(conn)
	if _, err := calls.Ready(t.Context(), &callv1.ReadyRequest{}); err != nil {
		t.Fatal(err)
	}
	for n := range callstream.MaxServed + 1 {
		stream, err := calls.Serve(t.Context())
		if err == nil {
			_, err = stream.Header()
		}
		if err == nil && n == callstream.MaxServed {
			_, err = stream.Recv()
		}
		if refused := status.Code(err) == codes.ResourceExhausted; refused != (n == callstream.MaxServed) {
			t.Fatalf("stream %d: %v", n+1, err)
		}
	}
}

func TestCallStreamsAreNamedWhenWrong(t *testing.T) {
	t.Setenv("MESHLITE_CALL_STREAMS", "maybe")
	_, err := meshlite.NewClient("consul:///catalog", meshlite.WithPlaintext())
	if want := `meshlite: MESHLITE_CALL_STREAMS "maybe": write true or false`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
