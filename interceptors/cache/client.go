package cache

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// client serves a call from the cache, or from another's call for the same that is under
// way, or makes it and stores what it is answered.
func (r *rule) client(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	answer, ok := reply.(proto.Message)
	key, known := r.key(ctx, targetOf(cc), req)
	if !ok || !known || r.hides(opts) {
		r.finish(Bypass)
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	call := func() (*entry, error) {
		var header, trailer metadata.MD
		opts := append(slices.Clip(opts), grpc.Header(&header), grpc.Trailer(&trailer))
		if err := invoker(ctx, method, req, reply, cc, opts...); err != nil {
			r.store(key, r.newFailure(ctx, key, err, header, trailer))
			return nil, err
		}
		e := newEntry(key, answer, header, trailer)
		r.store(key, e)
		return e, nil
	}
	e, result, err := r.find(ctx, key, call)
	if e != nil && e.failure == nil && proto.Unmarshal(e.body, answer) != nil {
		e, result = nil, Miss // what was kept is of another type
		_, err = call()
	}
	r.finish(result)
	if e == nil {
		return err
	}
	e.replay(opts)
	return e.failure.Err()
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

// replay does for a hit what gRPC does at the end of a call.
func (e *entry) replay(opts []grpc.CallOption) {
	for _, opt := range opts {
		switch o := opt.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = e.header.Copy()
		case grpc.TrailerCallOption:
			*o.TrailerAddr = e.trailer.Copy()
		case grpc.OnFinishCallOption:
			o.OnFinish(e.failure.Err())
		}
	}
}
