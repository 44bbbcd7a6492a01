package cache_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // a compressor to ask for
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// bearer is a credential of one call.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return false }

// C1, with credentials that a call brings in its options: the key cannot hold
// them, so the cache keeps out of it.
func TestCallsWithCredentialsOfTheirOwnAreNotCached(t *testing.T) {
	c := newCache(t, callersOf(caller.WithIdentityMetadata("customer-id")))
	shop := client(t, &shop{}, c, private())
	for _, option := range []grpc.CallOption{
		grpc.PerRPCCredentials(bearer("alice")), grpc.PerRPCCredentials(bearer("bob")), grpc.CallAuthority("tenant-b"),
	} {
		ask(t, as("customer-id", "gateway"), shop, "x", option)
	}
	want(t, "stats", c.Stats().Counts, cache.Counts{Bypassed: 3})
}

// A handler behind the cache has gRPC's own stream, not a wrapped one.
func TestHandlersCanChooseACompressor(t *testing.T) {
	s := &shop{}
	s.answer = func(ctx context.Context, _ *catalogv1.GetSweetRequest) error {
		return grpc.SetSendCompressor(ctx, "gzip")
	}
	public := &policyv1.CacheRule{Ttl: proto.String("1m"), Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC}
	ask(t, context.Background(), server(t, s, newCache(t), public), "x")
}

// What belongs to one call is not given to the next caller.
func TestHitReplaysNothingOfTheFirstCaller(t *testing.T) {
	s := &shop{}
	s.answer = func(ctx context.Context, _ *catalogv1.GetSweetRequest) error {
		return grpc.SetHeader(ctx, metadata.Pairs("set-cookie", "session=alice", "traceparent", "00-1", "region", "north"))
	}
	public := &policyv1.CacheRule{Ttl: proto.String("1m"), Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC}
	shop := server(t, s, newCache(t), public)
	ask(t, context.Background(), shop, "x")
	var header metadata.MD
	ask(t, context.Background(), shop, "x", grpc.Header(&header))
	want(t, "cookies", len(header.Get("set-cookie")), 0)
	want(t, "traces", len(header.Get("traceparent")), 0)
	want(t, "regions", len(header.Get("region")), 1)
}
