package cache

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// client serves a call from the cache, or from another's call for the same that is under
// way, or makes it and stores what it is answered.
func (r *rule) client(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	result := Bypass
	err = errPanicked
	defer func() {
		r.finish(ctx, result)
		if result != Bypass {
			finished(opts, err)
		}
	}()
	message, ok := reply.(proto.Message)
	a, known := r.read(ctx, targetOf(cc), req)
	if !ok || !known || r.hides(opts) {
		err = invoker(ctx, method, req, reply, cc, opts...)
		a.report(opts, result)
		return err
	}
	if e := r.quick(&a); e != nil && (e.failure != nil || proto.Unmarshal(e.body, message) == nil) {
		result, err = Hit, e.failure.Err()
		e.replay(opts, false)
		a.report(opts, result)
		return err
	}
	result = Miss
	result, err = r.ask(ctx, a, &clientCall{method: method, req: req, reply: message, cc: cc, invoker: invoker, opts: opts})
	a.report(opts, result)
	return err
}

// ask is client where it takes more than a look.
func (r *rule) ask(ctx context.Context, a asked, call *clientCall) (Result, error) {
	a.origin, a.manner = call, mannerOf(call.opts)
	e, result, err := r.find(ctx, &a)
	if e == nil {
		return result, err
	}
	if e.failure == nil && proto.Unmarshal(e.body, call.reply) != nil { // what was kept is of another type
		_, err = call.fetch(ctx, "")
		return Miss, err
	}
	e.replay(call.opts, result == Miss)
	return result, e.failure.Err()
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

// fetch makes the call, which tells nobody that it has finished: another may follow it.
func (c *clientCall) fetch(ctx context.Context, etag string) (got answer, err error) {
	if etag != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, ifNoneMatch, etag)
	}
	opts := append(without[grpc.OnFinishCallOption](c.opts), grpc.Header(&got.header), grpc.Trailer(&got.trailer))
	err = c.invoker(ctx, c.method, c.req, c.reply, c.cc, opts...)
	got.message = c.reply
	return got, err
}

// contradicts is false: the caller is told what it is told by replay.
func (c *clientCall) contradicts(*entry) bool { return false }

// detached leaves out the options that write to the caller, and what the caller wishes.
func (c *clientCall) detached(ctx context.Context, request proto.Message) (context.Context, origin) {
	own := *c
	own.req, own.reply = request, c.reply.ProtoReflect().New().Interface()
	own.opts = without[grpc.HeaderCallOption](without[grpc.TrailerCallOption](without[grpc.PeerCallOption](c.opts)))
	if md, _ := metadata.FromOutgoingContext(ctx); unwished(md) {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	return attempt.NewContext(ctx, attempt.New()), &own
}

// without copies opts, but for those of one type.
func without[O grpc.CallOption](opts []grpc.CallOption) []grpc.CallOption {
	kept := make([]grpc.CallOption, 0, len(opts)+2)
	for _, opt := range opts {
		if _, out := opt.(O); !out {
			kept = append(kept, opt)
		}
	}
	return kept
}

// mannerOf tells apart calls that may fail where others do not: they do not share one.
func mannerOf(opts []grpc.CallOption) string {
	manner := ""
	for _, opt := range opts {
		switch o := opt.(type) {
		case grpc.FailFastCallOption:
			manner += fmt.Sprint("fail fast ", o.FailFast)
		case grpc.MaxRecvMsgSizeCallOption:
			manner += fmt.Sprint("receive ", o.MaxRecvMsgSize)
		case grpc.MaxSendMsgSizeCallOption:
			manner += fmt.Sprint("send ", o.MaxSendMsgSize)
		}
	}
	return manner
}

// replay gives the caller the metadata that the answer came with. If it was asked about,
// what caches on the way have said of themselves is true, too.
func (e *entry) replay(opts []grpc.CallOption, asked bool) {
	for _, opt := range opts {
		switch o := opt.(type) {
		case grpc.HeaderCallOption:
			header := metadata.Join(e.header, metadata.MD{"age": {e.ageNow()}})
			if told := (*o.HeaderAddr)[xCache]; asked && len(told) > 0 {
				header.Append(xCache, told...)
			}
			*o.HeaderAddr = header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = e.trailer.Copy()
		}
	}
}

// report adds the result to the header that the caller is given, if it wants to know.
func (a *asked) report(opts []grpc.CallOption, result Result) {
	if !a.tell {
		return
	}
	for _, opt := range opts {
		if o, ok := opt.(grpc.HeaderCallOption); ok {
			*o.HeaderAddr = metadata.Join(*o.HeaderAddr, metadata.Pairs(xCache, result.String()))
		}
	}
}

// finished does what gRPC does at the end of a call.
func finished(opts []grpc.CallOption, err error) {
	for _, opt := range opts {
		if o, ok := opt.(grpc.OnFinishCallOption); ok {
			o.OnFinish(err)
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
