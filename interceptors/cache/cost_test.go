package cache_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// hitter makes hits of 1 KiB with one bytes field.
func hitter(t testing.TB) func() {
	cc, err := grpc.NewClient("dns:///catalog.example:443", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	c := newCache(t)
	call := blob(t, c, cc)
	ctx, req, reply := context.Background(), wrapperspb.String("fudge"), &wrapperspb.BytesValue{}
	call(ctx, req, reply, 1024)
	return func() { call(ctx, req, reply, 1024) }
}

// C8's price: a hit at 1 KiB allocates 6 times at most.
func TestHitAllocatesLittle(t *testing.T) {
	if allocs := testing.AllocsPerRun(1000, hitter(t)); allocs > 6 {
		t.Errorf("a hit allocates %v times, want 6 at most", allocs)
	}
}

func BenchmarkHit(b *testing.B) {
	hit := hitter(b)
	b.ReportAllocs()
	for b.Loop() {
		hit()
	}
}
