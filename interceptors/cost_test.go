package interceptors_test

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshlite-go/meshlite/interceptors"
)

// allIdle is a client chain of seven concerns with nothing to do.
func allIdle(t testing.TB) grpc.UnaryClientInterceptor {
	return chainOf(t, interceptors.Client, newPolicies(t, nil),
		idle(interceptors.Metrics), idle(interceptors.Logging), idle(interceptors.Recovery), idle(interceptors.User),
		idle(interceptors.Deadline), idle(interceptors.Cache), idle(interceptors.Retry)).UnaryClient()
}

// With everything idle the chain costs one allocation at most.
func TestIdleConcernsCostNothing(t *testing.T) {
	chain := allIdle(t)
	ctx := t.Context()
	got := testing.AllocsPerRun(1000, func() { _ = chain(ctx, getSweet, nil, nil, nil, answer) })
	if got > 1 {
		t.Errorf("%v allocations, want 1 at most", got)
	}
}

// BenchmarkUnaryClient compares a chain whose concerns are idle with as many
// interceptors that pass everything on, chained by gRPC.
func BenchmarkUnaryClient(b *testing.B) {
	chain := allIdle(b)
	b.Run("idle", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = chain(b.Context(), getSweet, nil, nil, nil, answer)
		}
	})
	stop := func(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
		return nil
	}
	conn, err := grpc.NewClient("passthrough:///unused",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, net.ErrClosed }),
		grpc.WithChainUnaryInterceptor(pass, pass, pass, pass, pass, pass, pass, stop))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	b.Run("chained by gRPC", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = conn.Invoke(b.Context(), getSweet, nil, nil)
		}
	})
}
