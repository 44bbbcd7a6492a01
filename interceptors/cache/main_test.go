package cache_test

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const getSweet = "/sweetshop.catalog.v1.CatalogService/GetSweet"

// shop answers every sweet that is asked for and counts how often. The name in
// the answer distinguishes the calls.
type shop struct {
	catalogv1.UnimplementedCatalogServiceServer
	calls  atomic.Int64
	answer func(context.Context, *catalogv1.GetSweetRequest) error
}

func (s *shop) GetSweet(ctx context.Context, req *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	n := s.calls.Add(1)
	if s.answer != nil {
		if err := s.answer(ctx, req); err != nil {
			return nil, err
		}
	}
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: req.GetId(), Name: fmt.Sprint("answer ", n)}}, nil
}

// dial serves shop in memory until the test ends.
func dial(t testing.TB, shop *shop, server []grpc.ServerOption, client []grpc.DialOption) catalogv1.CatalogServiceClient {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	s := grpc.NewServer(server...)
	catalogv1.RegisterCatalogServiceServer(s, shop)
	go s.Serve(listener)
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("passthrough:///shop", append(client,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return catalogv1.NewCatalogServiceClient(conn)
}

func newCache(t testing.TB, opts ...cache.Option) *cache.Cache {
	t.Helper()
	c, err := cache.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// callersOf are the callers of a cache.
func callersOf(opts ...caller.Option) cache.Option {
	callers, err := caller.New(opts...)
	if err != nil {
		panic(err)
	}
	return cache.WithCallers(callers)
}

// policies has rule for the method GetSweet, over what the contract says: two
// seconds, public, on the client.
func policies(t testing.TB, rule *policyv1.CacheRule) *interceptors.Policies {
	t.Helper()
	p, err := interceptors.NewPolicies(&policyv1.ServicePolicy{
		Methods: map[string]*policyv1.MethodPolicy{"GetSweet": {Cache: rule}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// private is the rule of answers for one identity only.
func private() *policyv1.CacheRule {
	return &policyv1.CacheRule{Ttl: proto.String("1m"), Scope: policyv1.CacheScope_CACHE_SCOPE_PRIVATE}
}

func onServer(rule *policyv1.CacheRule) *policyv1.CacheRule {
	rule.Side = policyv1.Side_SIDE_SERVER
	return rule
}

// client is a shop's client with c on it, under rule.
func client(t testing.TB, shop *shop, c *cache.Cache, rule *policyv1.CacheRule) catalogv1.CatalogServiceClient {
	t.Helper()
	return dial(t, shop, nil, []grpc.DialOption{grpc.WithUnaryInterceptor(c.UnaryClientInterceptor(policies(t, rule)))})
}

// server is the client of a shop with c on the server, under rule.
func server(t testing.TB, shop *shop, c *cache.Cache, rule *policyv1.CacheRule) catalogv1.CatalogServiceClient {
	t.Helper()
	return dial(t, shop, []grpc.ServerOption{grpc.UnaryInterceptor(c.UnaryServerInterceptor(policies(t, onServer(rule))))}, nil)
}

// ask asks for a sweet and returns which answer came.
func ask(t testing.TB, ctx context.Context, shop catalogv1.CatalogServiceClient, id string, opts ...grpc.CallOption) string {
	t.Helper()
	reply, err := shop.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: id}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if reply.GetSweet().GetId() != id {
		t.Fatalf("asked for %q, was given %q", id, reply.GetSweet().GetId())
	}
	return reply.GetSweet().GetName()
}

// as is a context whose calls carry metadata.
func as(kv ...string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), kv...)
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
