package cache_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// routed is a client's cache in front of the arms of a route. A call goes to the arm that it asks
// for, and answers with where its last attempt was.
type routed struct {
	t         *testing.T
	intercept grpc.UnaryClientInterceptor
	movesTo   *attempt.Route // nil: calls stay in their arm
	calls     int
	unchanged bool // answers confirm whatever etag they are asked about
}

func (r *routed) call(to *attempt.Route) string {
	r.t.Helper()
	ctx, record := attempt.FromOrNew(r.t.Context(), attempt.Unary)
	record.SetRoute(to)
	var reply catalogv1.GetSweetResponse
	if err := r.intercept(ctx, getSweet, &catalogv1.GetSweetRequest{Id: "fudge"}, &reply, nil, r.answer); err != nil {
		r.t.Fatal(err)
	}
	return reply.GetSweet().GetId()
}

func (r *routed) answer(ctx context.Context, _ string, _, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
	r.calls++
	record := attempt.FromContext(ctx)
	if r.movesTo != nil {
		record = record.Next()
		record.SetRoute(r.movesTo)
	}
	record.SetPicked(&attempt.Instance{Address: record.Route().Destination})
	header := metadata.Pairs("etag", `"1"`)
	asked := len(metadata.ValueFromOutgoingContext(ctx, "if-none-match")) > 0
	if asked && r.unchanged {
		header.Set("not-modified", `"1"`)
	} else {
		proto.Merge(reply.(proto.Message), &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: record.Route().Destination}})
	}
	for _, opt := range opts {
		if o, ok := opt.(grpc.HeaderCallOption); ok {
			*o.HeaderAddr = header
		}
	}
	return nil
}

// Case T9
func TestAnAnswerFromAnotherArmIsNotKept(t *testing.T) {
	v1, v2 := &attempt.Route{Destination: "dc1/catalog/v1"}, &attempt.Route{Destination: "dc1/catalog/v2"}
	synctest.Test(t, func(t *testing.T) {
		r := &routed{t: t, intercept: newCache(t).UnaryClientInterceptor(policies(t, anybody()))}
		want(t, "v1", r.call(v1), v1.Destination)
		want(t, "v2", r.call(v2), v2.Destination)
		want(t, "v1 again", r.call(v1), v1.Destination)
		want(t, "calls, one for each", r.calls, 2)

		// After a retry in the other arm its answer is the caller's, and nobody's after that.
		time.Sleep(2 * time.Minute)
		r.movesTo = v1
		want(t, "v2 by a retry in v1", r.call(v2), v1.Destination)
		want(t, "v2 by a retry in v1, again", r.call(v2), v1.Destination)
		want(t, "calls, none kept", r.calls, 4)

		// Nor does the other arm confirm what is kept of this one: it is asked again, for all of it.
		r.unchanged = true
		want(t, "v2, confirmed by v1", r.call(v2), v1.Destination)
		want(t, "calls, with the one that asks again", r.calls, 6)
	})
}

// A refresh in the background goes where the call went that started it.
func TestARefreshGoesWhereItsCallGoes(t *testing.T) {
	v1, v2 := &attempt.Route{Destination: "dc1/catalog/v1"}, &attempt.Route{Destination: "dc1/catalog/v2"}
	synctest.Test(t, func(t *testing.T) {
		r := &routed{t: t, intercept: newCache(t).UnaryClientInterceptor(policies(t, refreshed()))}
		r.call(v1)
		r.call(v2)
		time.Sleep(2 * time.Minute)
		for _, to := range []*attempt.Route{v1, v2} {
			want(t, "past its ttl", r.call(to), to.Destination)
			synctest.Wait()
			want(t, "refreshed", r.call(to), to.Destination)
		}
		want(t, "calls, one and one refresh for each", r.calls, 4)
	})
}
