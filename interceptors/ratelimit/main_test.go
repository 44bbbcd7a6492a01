package ratelimit_test

import (
	"context"
	"net"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	_ "github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const browse = "/sweetshop.storefront.v1.StorefrontService/Browse"

// shop serves everyone, and is healthy.
type shop struct {
	storefrontv1.UnimplementedStorefrontServiceServer
	healthv1.UnimplementedHealthServer
}

func (shop) Browse(context.Context, *storefrontv1.BrowseRequest) (*storefrontv1.BrowseResponse, error) {
	return &storefrontv1.BrowseResponse{}, nil
}

func (shop) PlaceOrder(context.Context, *storefrontv1.PlaceOrderRequest) (*storefrontv1.PlaceOrderResponse, error) {
	return &storefrontv1.PlaceOrderResponse{}, nil
}

func (shop) Check(context.Context, *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	return &healthv1.HealthCheckResponse{}, nil
}

func (shop) Watch(_ *healthv1.HealthCheckRequest, stream healthv1.Health_WatchServer) error {
	return stream.Send(&healthv1.HealthCheckResponse{})
}

// dial serves a shop in memory until the test ends.
func dial(t testing.TB, server []grpc.ServerOption, client []grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	s := grpc.NewServer(server...)
	storefrontv1.RegisterStorefrontServiceServer(s, shop{})
	healthv1.RegisterHealthServer(s, shop{})
	go s.Serve(listener)
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("passthrough:///shop", append(client,
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"meshlite_least_request": {}}]}`), // which reports who was picked
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// callers is the option for what opts say of callers.
func callers(opts ...caller.Option) ratelimit.Option {
	made, err := caller.New(opts...)
	if err != nil {
		panic(err)
	}
	return ratelimit.WithCallers(made)
}

func newLimiter(t testing.TB, opts ...ratelimit.Option) *ratelimit.Limiter {
	t.Helper()
	l, err := ratelimit.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// policies has limits on Browse instead of the one in the contract.
func policies(t testing.TB, limits ...*policyv1.RateLimitRule) *interceptors.Policies {
	t.Helper()
	p, err := interceptors.NewPolicies(policy(limits...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func policy(limits ...*policyv1.RateLimitRule) *policyv1.ServicePolicy {
	limits = append(limits, &policyv1.RateLimitRule{Name: "customer", Disabled: proto.Bool(true)})
	return &policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"Browse": {RateLimits: limits}}}
}

// limit admits n calls a minute by key, nil for all callers together.
func limit(name string, n uint64, key *policyv1.RateLimitKey) *policyv1.RateLimitRule {
	return &policyv1.RateLimitRule{Name: name, Limit: proto.Uint64(n), Period: proto.String("1 minute"), Key: key}
}

func byPeer() *policyv1.RateLimitKey {
	return &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Peer{Peer: &policyv1.PeerKey{}}}
}

func byIdentity() *policyv1.RateLimitKey {
	return &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Identity{Identity: &policyv1.IdentityKey{}}}
}

func byMetadata(key string) *policyv1.RateLimitKey {
	return &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Metadata{Metadata: key}}
}

func byField(path string) *policyv1.RateLimitKey {
	return &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Field{Field: path}}
}

// handle runs l alone on the server for one call of Browse.
func handle(l *ratelimit.Limiter, p *interceptors.Policies, ctx context.Context, req any) error {
	_, err := l.UnaryServerInterceptor(p)(ctx, req, &grpc.UnaryServerInfo{FullMethod: browse},
		func(context.Context, any) (any, error) { return nil, nil })
	return err
}

// admitted counts how many of n calls l admits.
func admitted(t testing.TB, l *ratelimit.Limiter, p *interceptors.Policies, ctx context.Context, req any, n int) int {
	t.Helper()
	count := 0
	for range n {
		if handle(l, p, ctx, req) == nil {
			count++
		}
	}
	return count
}

// from is the context of a call that came with metadata.
func from(kv ...string) context.Context {
	return metadata.NewIncomingContext(context.Background(), metadata.Pairs(kv...))
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
