package explained

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/rpc"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// UnaryServer explains the calls of a method. It is nil for gRPC's own services.
func (e *Explained) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	if interceptors.Infrastructure(meta.Service) {
		return nil
	}
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if !rpc.HasIncoming(ctx, wire.ExplainKey) {
			return handler(ctx, req)
		}
		ctx, record := e.receive(ctx, meta, info.FullMethod)
		if record == nil {
			return handler(ctx, req)
		}
		reply, err := handler(ctx, req)
		answer(record, err, sentTrailer(ctx), func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) })
		return reply, err
	}
}

// StreamServer explains the streams of a method. It is nil for gRPC's own services.
func (e *Explained) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	if interceptors.Infrastructure(meta.Service) {
		return nil
	}
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if !rpc.HasIncoming(stream.Context(), wire.ExplainKey) {
			return handler(srv, stream)
		}
		ctx, record := e.receive(stream.Context(), meta, info.FullMethod)
		err := handler(srv, rpc.WithContext(stream, ctx))
		if record != nil {
			answer(record, err, sentTrailer(ctx), stream.SetTrailer)
		}
		return err
	}
}

// UnaryClient explains the calls of a method. It is nil for gRPC's own services.
func (e *Explained) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	if interceptors.Infrastructure(meta.Service) {
		return nil
	}
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		parent := interceptors.Explaining(ctx)
		if parent == nil {
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		ctx, record := e.begin(ctx, parent, meta, method)
		if record == nil {
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		ctx, attempts := attempt.FromOrNew(ctx, attempt.Unary)
		err := rpc.ErrPanic
		defer func() { end(record, attempts, err) }()
		err = invoker(ctx, method, req, reply, cc, opts...)
		return err
	}
}

// StreamClient explains the streams of a method. It is nil for gRPC's own services.
func (e *Explained) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	if interceptors.Infrastructure(meta.Service) {
		return nil
	}
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		parent := interceptors.Explaining(ctx)
		if parent == nil {
			return streamer(ctx, desc, cc, method, opts...)
		}
		ctx, record := e.begin(ctx, parent, meta, method)
		if record == nil {
			return streamer(ctx, desc, cc, method, opts...)
		}
		ctx, attempts := attempt.FromOrNew(ctx, attempt.Stream)
		return rpc.OpenStream(ctx, desc, cc, method, streamer, opts, func(err error) { end(record, attempts, err) })
	}
}

// UnaryAttempt asks the server of each attempt.
func (e *Explained) UnaryAttempt(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	if interceptors.Infrastructure(meta.Service) {
		return nil
	}
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		record := interceptors.RecordOf(ctx, meta)
		if record == nil {
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		ctx, a := e.send(ctx, record, attempt.Unary)
		var trailer metadata.MD
		err := rpc.ErrPanic
		defer func() {
			withhold(opts)
			a.end(err, trailer)
		}()
		err = invoker(ctx, method, req, reply, cc, append(opts[:len(opts):len(opts)], grpc.Trailer(&trailer))...)
		return err
	}
}

// StreamAttempt asks the server of each attempt of a stream.
func (e *Explained) StreamAttempt(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	if interceptors.Infrastructure(meta.Service) {
		return nil
	}
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		record := interceptors.RecordOf(ctx, meta)
		if record == nil {
			return streamer(ctx, desc, cc, method, opts...)
		}
		ctx, a := e.send(ctx, record, attempt.Stream)
		stream, err := streamer(ctx, desc, cc, method, opts...)
		if err != nil {
			a.end(err, nil)
			return nil, err
		}
		a.record.Attempted(a.index, a.picked, nil)
		return &askedStream{ClientStream: stream, attempted: a, single: !desc.ServerStreams, opts: opts}, nil
	}
}
