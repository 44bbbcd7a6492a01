package cache_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// C11: A call runs OnFinish once, with the error that its caller gets: another's failure, an old
// answer in its place, none for only-if-cached, or what a second attempt has brought.
//
// Case C11
func TestACallFinishesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		s := &shop{answer: func(ctx context.Context, req *catalogv1.GetSweetRequest) error {
			time.Sleep(time.Second)
			if req.GetId() == "none" || down.Load() {
				return status.Error(codes.Unavailable, "closed")
			}
			return grpc.SetHeader(ctx, map[string][]string{"etag": {`"v1"`}})
		}}
		c := newCache(t)
		sweets := client(t, s, c, lenient())
		call := func(what string, code codes.Code, id string, kv ...string) {
			var told []codes.Code
			_, err := sweets.GetSweet(as(kv...), &catalogv1.GetSweetRequest{Id: id}, grpc.OnFinish(func(err error) { told = append(told, status.Code(err)) }))
			want(t, what, status.Code(err), code)
			want(t, what+": finished", fmt.Sprint(told), fmt.Sprint([]codes.Code{code}))
		}
		var work sync.WaitGroup
		for range 3 {
			work.Go(func() { call("a failure for three", codes.Unavailable, "none") })
		}
		work.Wait()
		want(t, "coalesced", c.Stats().Coalesced, 2)
		call("only if cached", codes.FailedPrecondition, "fudge", "cache-control", "only-if-cached")
		call("a miss", codes.OK, "fudge")
		call("a hit", codes.OK, "fudge")
		time.Sleep(time.Minute)
		call("asked about", codes.OK, "fudge")
		down.Store(true)
		time.Sleep(time.Minute)
		call("an old answer", codes.OK, "fudge")
		want(t, "stale", c.Stats().Stale, 1)
	})
}
