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

// The outcome of a call has the limit that decided, not all that the call met.
func TestTheOutcomeHasTheLimitThatDecided(t *testing.T) {
	shadowed := limit("trial", 1, nil)
	shadowed.Shadow = proto.Bool(true)
	l, p := newLimiter(t), policies(t, limit("first", 5, nil), shadowed, limit("last", 2, nil))
	for _, says := range []string{"first admitted", "trial shadowed", "last refused"} {
		ctx, outcome := interceptors.Listen(t.Context(), interceptors.Server, browse)
		_ = handle(l, p, ctx, nil)
		want(t, "verdict", text(outcome.Limit()), says)
	}
}

func TestTheOutcomeHasACallThatIsHeldBack(t *testing.T) {
	conn := dial(t,
		[]grpc.ServerOption{grpc.UnaryInterceptor(newLimiter(t).UnaryServerInterceptor(policies(t, limit("all", 1, nil))))},
		[]grpc.DialOption{grpc.WithUnaryInterceptor(newLimiter(t).UnaryClientInterceptor(policies(t)))})
	for _, says := range []string{"", "", "all held_back"} {
		ctx, outcome := interceptors.Listen(attempt.NewContext(context.Background(), attempt.New()), interceptors.Client, browse)
		_, _ = storefrontv1.NewStorefrontServiceClient(conn).Browse(ctx, &storefrontv1.BrowseRequest{})
		want(t, "verdict", text(outcome.Limit()), says)
	}
}

// text is the limit and its verdict, "" for none.
func text(e interceptors.LimitEvent) string {
	if e == nil {
		return ""
	}
	return e.Limit() + " " + e.Result()
}
