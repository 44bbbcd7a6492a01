package deadline

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
)

// UnaryClient bounds the calls of a method that has a timeout on the client.
func (d *Deadline) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	timeout := timeoutOf(meta)
	if timeout == 0 {
		return nil
	}
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if sooner(ctx, timeout) {
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return d.ended(ctx, meta, invoker(ctx, method, req, reply, cc, opts...))
	}
}

// StreamClient bounds the streams of a method that has a timeout on the client.
// The timer goes when gRPC says that the stream has ended, at the latest when it
// fires.
func (d *Deadline) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	timeout := timeoutOf(meta)
	if timeout == 0 {
		return nil
	}
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		if sooner(ctx, timeout) {
			return streamer(ctx, desc, cc, method, opts...)
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		ended := func(err error) {
			_ = d.ended(ctx, meta, err) // gRPC's errors have a status
			cancel()
		}
		opened := false
		defer func() {
			if !opened { // an error, or a panic further inside
				cancel()
			}
		}()
		stream, err := streamer(ctx, desc, cc, method, append(slices.Clip(opts), grpc.OnFinish(ended))...)
		opened = err == nil
		return stream, err
	}
}

// UnaryServer bounds the handler of a method that has a timeout on the server.
func (d *Deadline) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	timeout := timeoutOf(meta)
	if timeout == 0 {
		return nil
	}
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if sooner(ctx, timeout) {
			return handler(ctx, req)
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		reply, err := handler(ctx, req)
		return reply, d.ended(ctx, meta, err)
	}
}

// StreamServer bounds the handler of a method that has a timeout on the server.
func (d *Deadline) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	timeout := timeoutOf(meta)
	if timeout == 0 {
		return nil
	}
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if sooner(stream.Context(), timeout) {
			return handler(srv, stream)
		}
		ctx, cancel := context.WithTimeout(stream.Context(), timeout)
		defer cancel()
		return d.ended(ctx, meta, handler(srv, boundedStream{stream, ctx}))
	}
}

// boundedStream is a stream whose context ends in time.
type boundedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s boundedStream) Context() context.Context { return s.ctx }

// UnaryClientInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, d).UnaryClient()
}

// StreamClientInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) StreamClientInterceptor(policies *interceptors.Policies) grpc.StreamClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, d).StreamClient()
}

// UnaryServerInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) UnaryServerInterceptor(policies *interceptors.Policies) grpc.UnaryServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, d).UnaryServer()
}

// StreamServerInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) StreamServerInterceptor(policies *interceptors.Policies) grpc.StreamServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, d).StreamServer()
}
