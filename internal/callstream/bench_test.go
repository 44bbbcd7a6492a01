package callstream

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
)

// Both ends of a call, in one process, with a deadline as calls of the mesh have it.
func BenchmarkCall(b *testing.B) {
	e := serveTest(b, func(_ context.Context, text string) (string, error) { return text, nil })
	client := &Client{}
	plain, shared := dialTest(b, nil, []string{e.address}), dialTest(b, client, []string{e.address})
	takesStreams(b, client, shared, 1)
	for name, conn := range map[string]*grpc.ClientConn{"a stream each": plain, "shared streams": shared} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
					if _, err := invoke(ctx, conn, does, "hello"); err != nil {
						b.Error(err)
					}
					cancel()
				}
			})
		})
	}
}
