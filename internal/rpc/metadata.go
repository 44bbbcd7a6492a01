package rpc

import (
	"context"

	"google.golang.org/grpc/metadata"
)

// HasIncoming reports whether the call that ctx is handled with was sent with key, which is in
// lower case, as what transports deliver. A miss costs a fifth of that of
// [metadata.ValueFromIncomingContext], which then compares all keys regardless of case.
func HasIncoming(ctx context.Context, key string) bool {
	switch md := ctx.Value(incomingKey).(type) {
	case nil:
		return false
	case metadata.MD:
		return len(md[key]) > 0
	default:
		return len(metadata.ValueFromIncomingContext(ctx, key)) > 0
	}
}

// incomingKey is the key by which gRPC finds incoming metadata in a context.
var incomingKey = func() any {
	var asked keyContext
	metadata.ValueFromIncomingContext(&asked, "")
	return asked.key
}()

// keyContext stores the key that it is asked for.
type keyContext struct {
	context.Context
	key any
}

// Value has no value.
func (c *keyContext) Value(key any) any {
	c.key = key
	return nil
}
