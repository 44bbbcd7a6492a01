package redis_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/internal/redistest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// replica is a process with a cache on its client, which asks the same catalog as others.
type replica struct {
	cache *cache.Cache
	ask   func(id string) string
}

func newReplica(t *testing.T, url string, calls *atomic.Int64) *replica {
	t.Helper()
	answers, err := cache.New(cache.WithStore(connected(t, url)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(answers.Close)
	policies, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{
		"GetSweet": {Cache: &policyv1.CacheRule{Ttl: proto.String("1h"), Tags: []string{"sweet:{id}"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	call := answers.UnaryClientInterceptor(policies)
	return &replica{answers, func(id string) string {
		reply := &catalogv1.GetSweetResponse{}
		err := call(t.Context(), catalogv1.CatalogService_GetSweet_FullMethodName, &catalogv1.GetSweetRequest{Id: id}, reply, nil,
			func(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
				reply.(*catalogv1.GetSweetResponse).Sweet = &catalogv1.Sweet{Name: fmt.Sprint(id, " ", calls.Add(1))}
				return nil
			})
		if err != nil {
			t.Error(err)
		}
		return reply.GetSweet().GetName()
	}}
}

// C12, C17 and C19 with all that belongs to them: replicas share answers and invalidations
// through a real Redis, go on without it when it is killed, and give up what they keep.
//
// Case C12
// Case C17
// Case C19
func TestReplicasShareAndGoOnWithoutRedis(t *testing.T) {
	s := redistest.Start(t)
	var calls atomic.Int64
	one, two := newReplica(t, s.URL(), &calls), newReplica(t, s.URL(), &calls)
	want(t, "one", one.ask("fudge"), "fudge 1")
	redistest.Await(t, "shared answer", func() bool { return len(s.Keys("meshlite:cache:v:")) == 1 })
	want(t, "two", two.ask("fudge"), "fudge 1")
	want(t, "hits of the store", two.cache.Stats().StoreHits, 1)

	if err := one.cache.Invalidate(t.Context(), cache.Tag("sweet:fudge")); err != nil {
		t.Fatal(err)
	}
	redistest.Await(t, "invalidation", func() bool { return two.ask("fudge") != "fudge 1" })
	want(t, "two, afterwards", two.ask("fudge"), "fudge 2")

	losses := func(r *replica) uint64 { return r.cache.Stats().StoreLosses }
	lostOne, lostTwo := losses(one), losses(two)
	s.Kill()
	redistest.Await(t, "loss of the channel", func() bool { return losses(one) > lostOne && losses(two) > lostTwo })
	before := calls.Load()
	for range 100 {
		one.ask("toffee")
		two.ask("toffee")
	}
	want(t, "calls for a new answer, one for each", calls.Load()-before, 2)
	if err := one.cache.Invalidate(t.Context(), cache.Tag("sweet:toffee")); err == nil {
		t.Error("nobody says that the invalidation did not reach others")
	}
	old := two.ask("toffee")
	s.Run()
	redistest.Await(t, "the invalidation", func() bool { return two.ask("toffee") != old })
	n := 0
	redistest.Await(t, "sharing again", func() bool {
		n++
		id := fmt.Sprint("nougat", n)
		told := one.ask(id)
		time.Sleep(10 * time.Millisecond) // it is written in the background
		return two.ask(id) == told
	})
}
