package routes

import (
	"context"
	"sync"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/resolver/route"
)

// match is the position of the first route that takes a call; -1 without one.
func match(chain *route.Chain, method string, ctx context.Context) int {
	if !chain.ReadsMetadata() {
		_, i := chain.Match(method, nil)
		return i
	}
	md := outgoings.Get().(*outgoing)
	md.ctx = ctx
	_, i := chain.Match(method, md)
	md.ctx = nil
	outgoings.Put(md)
	return i
}

// outgoing is the metadata that a call sends.
type outgoing struct{ ctx context.Context }

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// Get returns the values of key.
func (o *outgoing) Get(key string) []string { return metadata.ValueFromOutgoingContext(o.ctx, key) }
