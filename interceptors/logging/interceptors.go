package logging

import (
	"context"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/lines"
)

// part is the concern's part in the calls of one method.
type part struct {
	*Logging
	side    interceptors.Side
	name    string       // by which other concerns know the method
	limit   *lines.Limit // nil until the first call without a chain
	listens bool         // to calls that may fail in a way that only an outcome tells
}

func (l *Logging) part(meta *interceptors.CallMeta) part {
	p := l.alone(meta.Side, meta.FullMethod)
	p = p.limited()
	p.listens = meta.Side == interceptors.Server && meta.Policy.GetConcurrency() != nil
	return p
}

func (l *Logging) alone(side interceptors.Side, method string) part {
	return part{Logging: l, side: side, name: method}
}

// limited is p with its limit, which is not looked for while all levels are off.
func (p part) limited() part {
	if p.limit == nil {
		p.limit = p.limits.of(p.side, p.name, p.most)
	}
	return p
}

// UnaryClient logs calls.
func (l *Logging) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	return l.part(meta).call
}

// StreamClient logs streams when they end.
func (l *Logging) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	return l.part(meta).open
}

// UnaryServer logs calls.
func (l *Logging) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	return l.part(meta).serve
}

// StreamServer logs streams when they end.
func (l *Logging) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	return l.part(meta).serveStream
}

// UnaryClientInterceptor is for use without a chain.
func (l *Logging) UnaryClientInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return l.alone(interceptors.Client, method).call(ctx, method, req, reply, cc, invoker, opts...)
	}
}

// StreamClientInterceptor is for use without a chain.
func (l *Logging) StreamClientInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return l.alone(interceptors.Client, method).open(ctx, desc, cc, method, streamer, opts...)
	}
}

// UnaryServerInterceptor is for use without a chain.
func (l *Logging) UnaryServerInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return l.alone(interceptors.Server, info.FullMethod).serve(ctx, req, info, handler)
	}
}

// StreamServerInterceptor is for use without a chain.
func (l *Logging) StreamServerInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		method := info.FullMethod
		if srv == nil {
			method = "other" // the peer has made it up: all of them have one limit
		}
		return l.alone(interceptors.Server, method).serveStream(srv, stream, info, handler)
	}
}
