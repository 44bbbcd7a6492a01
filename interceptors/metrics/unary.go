package metrics

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/interceptors"
)

// UnaryClient measures the calls of one method. Its series appear with the first call.
func (m *Metrics) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	series := sync.OnceValue(func() *method { return m.client.method(unary, meta.FullMethod, true) })
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return series().call(ctx, m.trace, method, req, reply, cc, invoker, opts)
	}
}

// UnaryClientInterceptor is for use without a chain.
func (m *Metrics) UnaryClientInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return m.client.method(unary, method, true).call(ctx, m.trace, method, req, reply, cc, invoker, opts)
	}
}

// UnaryServer measures the calls of one method. Its series appear with the first call.
func (m *Metrics) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	series := sync.OnceValue(func() *method { return m.server.method(unary, meta.FullMethod, true) })
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return series().serve(ctx, m.trace, req, handler)
	}
}

// UnaryServerInterceptor is for use without a chain.
func (m *Metrics) UnaryServerInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return m.server.method(unary, info.FullMethod, true).serve(ctx, m.trace, req, handler)
	}
}

// call and serve count a panic that passes through them as INTERNAL, which is
// what recovery further out makes of it.

func (m *method) call(ctx context.Context, trace traceOf, name string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts []grpc.CallOption) error {
	start, code := m.start(), codes.Internal
	defer func() { m.end(ctx, trace, start, code) }()
	m.sent.count(req)
	err := invoker(ctx, name, req, reply, cc, opts...)
	if code = codeOf(err); code == codes.OK {
		m.received.count(reply)
	}
	return err
}

func (m *method) serve(ctx context.Context, trace traceOf, req any, handler grpc.UnaryHandler) (any, error) {
	start, code := m.start(), codes.Internal
	defer func() { m.end(ctx, trace, start, code) }()
	m.received.count(req)
	reply, err := handler(ctx, req)
	if code = codeOf(err); code == codes.OK {
		m.sent.count(reply)
	}
	return reply, err
}
