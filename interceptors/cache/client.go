package cache

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// client serves a call from the cache, or from another's call for the same that is under
// way, or makes it and stores what it is answered.
func (r *rule) client(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	message, ok := reply.(proto.Message)
	a, known := r.asked(ctx, targetOf(cc), req)
	if !ok || !known || r.hides(opts) {
		r.finish(Bypass)
		err := invoker(ctx, method, req, reply, cc, opts...)
		if a.tell {
			tell(opts, Bypass)
		}
		return err
	}
	call := &clientCall{method: method, req: req, reply: message, cc: cc, invoker: invoker, opts: opts}
	a.origin = call
	e, result, err := r.find(ctx, &a)
	if e != nil && e.failure == nil && call.fill(e) != nil { // what was kept is of another type
		_, err = call.fetch(ctx, "")
		e, result = nil, Miss
	}
	r.finish(result)
	if e != nil {
		call.replay(e)
		err = e.failure.Err()
	}
	if a.tell {
		tell(opts, result)
	}
	return err
}

// clientCall is a call of a channel.
type clientCall struct {
	method  string
	req     any
	reply   proto.Message
	cc      *grpc.ClientConn
	invoker grpc.UnaryInvoker
	opts    []grpc.CallOption
}

func (c *clientCall) fetch(ctx context.Context, etag string) (got answer, err error) {
	if etag != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, ifNoneMatch, etag)
	}
	opts := append(slices.Clip(c.opts), grpc.Header(&got.header), grpc.Trailer(&got.trailer))
	err = c.invoker(ctx, c.method, c.req, c.reply, c.cc, opts...)
	got.message = c.reply
	return got, err
}

func (c *clientCall) fill(e *entry) error { return proto.Unmarshal(e.body, c.reply) }

// detached leaves out the options that write to the caller.
func (c *clientCall) detached(ctx context.Context, request proto.Message) (context.Context, origin) {
	own := *c
	own.req, own.reply = request, c.reply.ProtoReflect().New().Interface()
	own.opts = slices.DeleteFunc(slices.Clone(c.opts), func(opt grpc.CallOption) bool {
		switch opt.(type) {
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption, grpc.OnFinishCallOption:
			return true
		}
		return false
	})
	return attempt.NewContext(ctx, attempt.New()), &own
}

// replay does for an answer that was kept what gRPC does at the end of a call.
func (c *clientCall) replay(e *entry) {
	for _, opt := range c.opts {
		switch o := opt.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = metadata.Join(e.header, metadata.MD{"age": {e.ageNow()}})
		case grpc.TrailerCallOption:
			*o.TrailerAddr = e.trailer.Copy()
		case grpc.OnFinishCallOption:
			o.OnFinish(e.failure.Err())
		}
	}
}

// tell adds the result to the header that the caller is given.
func tell(opts []grpc.CallOption, result Result) {
	for _, opt := range opts {
		if o, ok := opt.(grpc.HeaderCallOption); ok {
			*o.HeaderAddr = metadata.Join(*o.HeaderAddr, metadata.Pairs(xCache, result.String()))
		}
	}
}

// hides reports whether an option makes the call another caller's, or sends it
// to another virtual host, than the key tells.
func (r *rule) hides(opts []grpc.CallOption) bool {
	return slices.ContainsFunc(opts, func(opt grpc.CallOption) bool {
		switch opt.(type) {
		case grpc.PerRPCCredsCallOption:
			return !r.public
		case grpc.AuthorityOverrideCallOption:
			return true
		}
		return false
	})
}

func targetOf(cc *grpc.ClientConn) string {
	if cc == nil {
		return ""
	}
	return cc.CanonicalTarget()
}
