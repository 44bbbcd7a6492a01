package tracing

import (
	"context"
	"maps"
	"slices"

	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc/metadata"
)

// inject gives the trace of ctx to the server. What was there under the same keys,
// such as metadata that a handler passes on as it came, is replaced.
func inject(ctx context.Context, propagators propagation.TextMapPropagator) context.Context {
	md, ok := metadata.FromOutgoingContext(ctx) // a copy
	if !ok {
		md = metadata.MD{}
	}
	propagators.Inject(ctx, outgoing(md))
	return metadata.NewOutgoingContext(ctx, md)
}

// outgoing is metadata that propagators write.
type outgoing metadata.MD

func (o outgoing) Get(key string) string {
	if values := metadata.MD(o).Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

func (o outgoing) Set(key, value string) { metadata.MD(o).Set(key, value) }

func (o outgoing) Keys() []string { return slices.Collect(maps.Keys(o)) }

// incoming is the metadata of a call that propagators read: a key at a time, since
// all of it would have to be copied.
type incoming struct{ ctx context.Context }

var _ propagation.ValuesGetter = incoming{}

func (i incoming) Get(key string) string {
	if values := i.Values(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

func (i incoming) Values(key string) []string { return metadata.ValueFromIncomingContext(i.ctx, key) }

func (i incoming) Set(string, string) {} // nobody writes what has come

func (i incoming) Keys() []string {
	md, _ := metadata.FromIncomingContext(i.ctx)
	return slices.Collect(maps.Keys(md))
}
