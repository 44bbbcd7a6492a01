package ratelimit_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

// Who observes a call gets the limit that decided, not all that it met.
func TestTheOutcomeHasTheLimitThatDecided(t *testing.T) {
	shadowed := limit("trial", 1, nil)
	shadowed.Shadow = proto.Bool(true)
	l, p := newLimiter(t), policies(t, limit("first", 5, nil), shadowed, limit("last", 2, nil))
	for _, says := range []string{"first admitted", "trial shadowed", "last refused"} {
		ctx, outcome := interceptors.Listen(t.Context(), interceptors.Server, browse)
		_ = handle(l, p, ctx, nil)
		limit, verdict := outcome.Limit()
		want(t, "reported", limit+" "+verdict, says)
	}
}

func TestTheOutcomeHasACallThatIsHeldBack(t *testing.T) {
	conn := dial(t,
		[]grpc.ServerOption{grpc.UnaryInterceptor(newLimiter(t).UnaryServerInterceptor(policies(t, limit("all", 1, nil))))},
		[]grpc.DialOption{grpc.WithUnaryInterceptor(newLimiter(t).UnaryClientInterceptor(policies(t)))})
	for _, says := range []string{" ", " ", "all held_back"} {
		ctx, outcome := interceptors.Listen(attempt.NewContext(context.Background(), attempt.New()), interceptors.Client, browse)
		_, _ = storefrontv1.NewStorefrontServiceClient(conn).Browse(ctx, &storefrontv1.BrowseRequest{})
		limit, verdict := outcome.Limit()
		want(t, "reported", limit+" "+verdict, says)
	}
}
