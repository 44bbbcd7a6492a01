package routes

import (
	"context"
	"sync"

	"google.golang.org/grpc/metadata"
)

// match is the position of the first route that takes a call; -1 without one.
func (p *plan) match(ctx context.Context, method string) int {
	if !p.readsMetadata {
		_, i := p.chain.Match(method, nil)
		return i
	}
	md := outgoings.Get().(*outgoing)
	md.ctx = ctx
	_, i := p.chain.Match(method, md)
	md.ctx = nil
	outgoings.Put(md)
	return i
}

// outgoing is the metadata that a call sends.
type outgoing struct{ ctx context.Context }

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// Get returns the values of key.
func (o *outgoing) Get(key string) []string { return metadata.ValueFromOutgoingContext(o.ctx, key) }
