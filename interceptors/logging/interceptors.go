package logging

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
)

// UnaryClient logs calls.
func (l *Logging) UnaryClient(*interceptors.CallMeta) grpc.UnaryClientInterceptor {
	return l.UnaryClientInterceptor()
}

// StreamClient logs streams when they end.
func (l *Logging) StreamClient(*interceptors.CallMeta) grpc.StreamClientInterceptor {
	return l.StreamClientInterceptor()
}

// UnaryServer logs calls.
func (l *Logging) UnaryServer(*interceptors.CallMeta) grpc.UnaryServerInterceptor {
	return l.UnaryServerInterceptor()
}

// StreamServer logs streams when they end.
func (l *Logging) StreamServer(*interceptors.CallMeta) grpc.StreamServerInterceptor {
	return l.StreamServerInterceptor()
}

// UnaryClientInterceptor is for use without a chain.
func (l *Logging) UnaryClientInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if !l.logger.Enabled(ctx, l.highest) {
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		ctx, record := attempt.Of(ctx, attempt.Unary) // a failure must name its instance, and is not known beforehand
		start := time.Now()
		err := invoker(ctx, method, req, reply, cc, opts...)
		l.called(ctx, method, record, start, err)
		return err
	}
}

// StreamClientInterceptor is for use without a chain.
func (l *Logging) StreamClientInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		if !l.logger.Enabled(ctx, l.highest) {
			return streamer(ctx, desc, cc, method, opts...)
		}
		ctx, record := attempt.Of(ctx, attempt.Stream)
		start := time.Now()
		var once sync.Once
		finished := func(err error) {
			once.Do(func() { l.called(ctx, method, record, start, err) })
		}
		stream, err := streamer(ctx, desc, cc, method, append(slices.Clip(opts), grpc.OnFinish(finished))...)
		if err != nil {
			finished(err)
		}
		return stream, err
	}
}

// UnaryServerInterceptor is for use without a chain.
func (l *Logging) UnaryServerInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if !l.logger.Enabled(ctx, l.highest) {
			return handler(ctx, req)
		}
		start := time.Now()
		reply, err := handler(ctx, req)
		l.served(ctx, info.FullMethod, start, err, true)
		return reply, err
	}
}

// StreamServerInterceptor is for use without a chain.
func (l *Logging) StreamServerInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx := stream.Context()
		if !l.logger.Enabled(ctx, l.highest) {
			return handler(srv, stream)
		}
		start := time.Now()
		err := handler(srv, stream)
		l.served(ctx, info.FullMethod, start, err, srv != nil)
		return err
	}
}
