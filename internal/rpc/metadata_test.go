package rpc_test

import (
	"context"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/internal/rpc"
)

func TestIncomingMetadataIsFound(t *testing.T) {
	plain := t.Context()
	sent := metadata.NewIncomingContext(plain, metadata.Pairs("user-agent", "grpc-go", "mark", "1"))
	derived, cancel := context.WithCancel(sent)
	defer cancel()
	for name, test := range map[string]struct {
		ctx  context.Context
		key  string
		want bool
	}{
		"sent":           {sent, "mark", true},
		"derived":        {derived, "mark", true},
		"another key":    {sent, "marks", false},
		"no metadata":    {plain, "mark", false},
		"outgoing alone": {metadata.AppendToOutgoingContext(plain, "mark", "1"), "mark", false},
		"no values":      {metadata.NewIncomingContext(plain, metadata.MD{"mark": nil}), "mark", false},
		"replaced":       {metadata.NewIncomingContext(sent, metadata.MD{}), "mark", false},
	} {
		if got := rpc.HasIncoming(test.ctx, test.key); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
		if got := len(metadata.ValueFromIncomingContext(test.ctx, test.key)) > 0; got != test.want {
			t.Errorf("%s: gRPC finds %v, want %v", name, got, test.want)
		}
	}
}

func TestOutgoingMetadataIsACopy(t *testing.T) {
	md := rpc.Outgoing(t.Context())
	md.Set("mark", "1") // it is not nil
	ctx := metadata.NewOutgoingContext(t.Context(), md)
	rpc.Outgoing(metadata.AppendToOutgoingContext(ctx, "mark", "2")).Set("mark", "3")
	if got := rpc.Outgoing(ctx).Get("mark"); len(got) != 1 || got[0] != "1" {
		t.Errorf("after a change of a copy: %q", got)
	}
}

// BenchmarkHasIncoming is what a server call without the key costs.
func BenchmarkHasIncoming(b *testing.B) {
	ctx := metadata.NewIncomingContext(b.Context(), metadata.Pairs(":authority", "catalog", "content-type", "application/grpc",
		"user-agent", "grpc-go", "grpc-accept-encoding", "gzip", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
	b.Run("here", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = rpc.HasIncoming(ctx, "x-meshlite-mirror")
		}
	})
	b.Run("in gRPC", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = len(metadata.ValueFromIncomingContext(ctx, "x-meshlite-mirror")) > 0
		}
	})
}
