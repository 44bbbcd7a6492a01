package ratelimit_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

// L5 (fields): A refusal carries RateLimit fields, which show what the handler reads;
// with WithFields every answer does.
func TestFieldsShowTheStandings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		second := limit(`odd "name"`, 3, nil)
		second.Period = proto.String("1500ms")
		shadow := limit("shadow", 1, nil)
		shadow.Shadow = proto.Bool(true)
		p := policies(t, limit("minute", 2, byMetadata("id")), second, shadow)
		var read []ratelimit.Standing
		own := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			read, _ = ratelimit.FromContext(ctx)
			return handler(ctx, req)
		}
		const policy = `"minute";q=2;w=60, "odd \"name\"";q=4;w=2`
		for _, all := range []bool{false, true} {
			var opts []ratelimit.Option
			if all {
				opts = append(opts, ratelimit.WithFields())
			}
			conn := dial(t, []grpc.ServerOption{grpc.ChainUnaryInterceptor(newLimiter(t, opts...).UnaryServerInterceptor(p), own)}, nil)
			call := func() (fields string) {
				var trailer metadata.MD
				_, _ = storefrontv1.NewStorefrontServiceClient(conn).Browse(context.Background(), &storefrontv1.BrowseRequest{}, grpc.Trailer(&trailer))
				return strings.Join(append(trailer.Get("ratelimit-policy"), trailer.Get("ratelimit")...), " | ")
			}
			admitted := call()
			if all {
				want(t, "fields of the first", admitted, policy+` | "minute";r=1;t=30, "odd \"name\"";r=2;t=1`)
			} else {
				want(t, "fields of the first", admitted, "")
			}
			want(t, "read", len(read), 2)
			want(t, "read of the first", read[0], ratelimit.Standing{
				Name: "minute", Limit: ratelimit.Limit{Calls: 2, Period: time.Minute, Burst: 2}, Remaining: 1, Reset: 30 * time.Second})
			call()
			want(t, "read of the second", read[0].Remaining, 0)
			want(t, "fields of a refusal", call(), policy+` | "minute";r=0;t=60, "odd \"name\"";r=1;t=1`)
		}
	})
}

// Without a limiter there is nothing to read.
func TestFromContextWithoutALimiter(t *testing.T) {
	if all, ok := ratelimit.FromContext(context.Background()); ok || all != nil {
		t.Errorf("read %v", all)
	}
}
