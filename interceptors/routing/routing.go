// Package routing sends each call where a chain of routes says: it chooses route, arm and target,
// and changes metadata as they say. Package deadline bounds the call by the timeout of its route,
// and package retry adds what the route says of retries.
//
//	routed, err := routing.New(router)
//	chain, err := interceptors.Chain(interceptors.Client, policies, routed)
//
// The choice is made once for each call, outside of cache and retry: an answer is kept for the
// destination that gave it, and the attempts of a call share the choice, until one finds no
// instance there that the call has not tried. It is in the record of the call, package attempt,
// where the picker finds it. The router is that of the channel.
//
// Request metadata is changed before anything else of the chain reads it, and after the route is
// chosen. Response metadata is changed in what the caller receives: a kept answer has what the
// server sent, and is changed each time it is served.
package routing

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/rpc"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// Router chooses. It must be safe for concurrent use.
type Router interface {
	// Wait returns when the chain of the channel is known, or that there is none, or when ctx
	// has ended. It connects cc, whose resolver runs only then.
	Wait(ctx context.Context, cc interface{ Connect() }) error
	// Choose returns where the call of fullMethod with the outgoing metadata of ctx goes, and the
	// same for its record. Both are zero without a chain. The error is that of the call.
	Choose(ctx context.Context, fullMethod string) (route.Choice, *attempt.Route, error)
	// Count counts the end of a call by where its last attempt went.
	Count(at *attempt.Route, err error)
}

// Routing is the concern. It is safe for concurrent use.
type Routing struct{ router Router }

// New makes the concern of one channel. A nil router is an error.
func New(router Router) (*Routing, error) {
	if router == nil {
		return nil, errors.New("routing: New needs the router of the channel")
	}
	return &Routing{router}, nil
}

// Stage is [interceptors.Routing].
func (r *Routing) Stage() interceptors.Stage { return interceptors.Routing }

// routed is where one call goes. The zero value is plain discovery.
type routed struct {
	route.Choice
	record *attempt.Record
}

// choose routes one call. ctx has its record afterwards if a chain does so.
func (r *Routing) choose(ctx context.Context, kind attempt.Kind, cc *grpc.ClientConn, method string) (context.Context, routed, error) {
	if err := r.router.Wait(ctx, cc); err != nil {
		return ctx, routed{}, failed(ctx, err)
	}
	choice, way, err := r.router.Choose(ctx, method)
	if err != nil {
		return ctx, routed{}, failed(ctx, err)
	}
	if way == nil {
		return ctx, routed{}, nil
	}
	ctx, record := attempt.FromOrNew(ctx, kind)
	record.SetRoute(way)
	return withRequestHeaders(ctx, choice.Arm.Request), routed{choice, record}, nil
}

// count counts the end of a call.
func (r *Routing) count(to routed, err error) { r.router.Count(to.record.Latest().Route(), err) }

// failed makes the error of a call that was not routed: a status of the router, that of its
// context, or UNAVAILABLE, as for a channel without addresses.
func failed(ctx context.Context, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return status.Error(codes.Unavailable, err.Error())
}

func withRequestHeaders(ctx context.Context, all []route.Headers) context.Context {
	if len(all) == 0 {
		return ctx
	}
	md := rpc.Outgoing(ctx)
	apply(all, md)
	return metadata.NewOutgoingContext(ctx, md)
}

func apply(all []route.Headers, md metadata.MD) {
	for i := range all {
		all[i].Apply(md)
	}
}

// UnaryClient routes the calls of a method.
func (r *Routing) UnaryClient(*interceptors.CallMeta) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx, to, err := r.choose(ctx, attempt.Unary, cc, method)
		if err != nil {
			_, finish := rpc.SplitFinish(opts)
			finish.Run(err)
			return err
		}
		if to.record == nil {
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		err = rpc.ErrPanic
		defer func() { r.count(to, err) }()
		err = invoker(ctx, method, req, reply, cc, opts...)
		changeHeaders(to.Arm.Response, opts)
		return err
	}
}

// changeHeaders changes the header of the response that the caller has asked for.
func changeHeaders(all []route.Headers, opts []grpc.CallOption) {
	if len(all) == 0 {
		return
	}
	for _, opt := range opts {
		if header, ok := opt.(grpc.HeaderCallOption); ok && *header.HeaderAddr != nil {
			*header.HeaderAddr = changed(all, *header.HeaderAddr)
		}
	}
}

// changed is a copy: what a server sent may be kept.
func changed(all []route.Headers, md metadata.MD) metadata.MD {
	md = md.Copy()
	apply(all, md)
	return md
}

// StreamClient routes the streams of a method.
func (r *Routing) StreamClient(*interceptors.CallMeta) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		ctx, to, err := r.choose(ctx, attempt.Stream, cc, method)
		if err != nil {
			_, finish := rpc.SplitFinish(opts)
			finish.Run(err)
			return nil, err
		}
		if to.record == nil {
			return streamer(ctx, desc, cc, method, opts...)
		}
		stream, err := rpc.OpenStream(ctx, desc, cc, method, streamer, opts, func(err error) { r.count(to, err) })
		if err != nil || len(to.Arm.Response) == 0 {
			return stream, err
		}
		return &routedStream{ClientStream: stream, response: to.Arm.Response}, nil
	}
}

// routedStream is a stream with changes to the header of its response. What grpc.Header asks for
// is set after the end of a stream, and stays as the server sent it.
type routedStream struct {
	grpc.ClientStream
	response []route.Headers
}

// Header waits for the header, as gRPC's does.
func (s *routedStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	if md == nil {
		return md, err
	}
	return changed(s.response, md), err
}

// UnaryClientInterceptor is for use without a chain. It panics without policies.
func (r *Routing) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, r).UnaryClient()
}

// StreamClientInterceptor is for use without a chain. It panics without policies.
func (r *Routing) StreamClientInterceptor(policies *interceptors.Policies) grpc.StreamClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, r).StreamClient()
}
