package recovery

import (
	"context"

	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
)

// UnaryServer recovers from panics in the handler and in interceptors inside of this one.
func (r *Recovery) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	return middleware.UnaryServerInterceptor(r.handler(meta))
}

// StreamServer recovers from panics in the handler and in interceptors inside of
// this one, in the goroutine of the call: those that the handler starts are its own.
func (r *Recovery) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	return middleware.StreamServerInterceptor(r.handler(meta))
}

// handler replaces the one that would put the stack on the wire.
func (r *Recovery) handler(meta *interceptors.CallMeta) middleware.Option {
	return middleware.WithRecoveryHandlerContext(func(ctx context.Context, value any) error {
		return r.recovered(ctx, meta, value)
	})
}

// UnaryClient recovers from panics in codecs, credentials, pickers and
// interceptors inside of this one, as far as they run in the caller's goroutine.
func (r *Recovery) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
		defer func() {
			if value := recover(); value != nil {
				err = r.recovered(ctx, meta, value)
			}
		}()
		return invoker(ctx, method, req, reply, cc, opts...)
	}
}

// StreamClient recovers from panics while the stream is opened. What panics in
// Send and Recv later panics in the caller's own code.
func (r *Recovery) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (_ grpc.ClientStream, err error) {
		defer func() {
			if value := recover(); value != nil {
				err = r.recovered(ctx, meta, value)
			}
		}()
		return streamer(ctx, desc, cc, method, opts...)
	}
}

// UnaryServerInterceptor is for use without a chain.
func (r *Recovery) UnaryServerInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return r.UnaryServer(metaOf(interceptors.Server, info.FullMethod))(ctx, req, info, handler)
	}
}

// StreamServerInterceptor is for use without a chain.
func (r *Recovery) StreamServerInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return r.StreamServer(metaOf(interceptors.Server, info.FullMethod))(srv, stream, info, handler)
	}
}

// UnaryClientInterceptor is for use without a chain.
func (r *Recovery) UnaryClientInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return r.UnaryClient(metaOf(interceptors.Client, method))(ctx, method, req, reply, cc, invoker, opts...)
	}
}

// StreamClientInterceptor is for use without a chain.
func (r *Recovery) StreamClientInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return r.StreamClient(metaOf(interceptors.Client, method))(ctx, desc, cc, method, streamer, opts...)
	}
}
