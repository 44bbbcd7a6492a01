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
	*md = outgoing{}
	outgoings.Put(md)
	return i
}

// outgoing is the metadata that a call sends. It keeps the last value: routes often match
// values of one key.
type outgoing struct {
	ctx    context.Context
	key    string
	values []string
}

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// Get returns the values of key.
func (o *outgoing) Get(key string) []string {
	if key != o.key {
		o.key, o.values = key, metadata.ValueFromOutgoingContext(o.ctx, key)
	}
	return o.values
}
