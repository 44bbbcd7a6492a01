package metrics

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Handlers is the concern that times handlers alone, in meshlite_handler_seconds. What a
// cache answers, what waits for another's answer and what a limit refuses is a call in
// grpc_server_handled_total and no work of a handler; a refresh of a cache is such work
// and no call.
type Handlers struct{ m *Metrics }

// Handlers is the innermost concern of a server.
func (m *Metrics) Handlers() *Handlers { return &Handlers{m} }

// Place is [interceptors.Handler].
func (h *Handlers) Place() interceptors.Place { return interceptors.Handler }

// UnaryServer times the handler of one method.
func (h *Handlers) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	series := sync.OnceValue(func() *method { return h.m.server.method(unary, meta.FullMethod, true) })
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		start, code := time.Now(), codes.Internal
		defer func() { h.end(ctx, series(), start, code) }()
		reply, err := handler(ctx, req)
		code = codeOf(err)
		return reply, err
	}
}

// StreamServer times the handler of one method.
func (h *Handlers) StreamServer(*interceptors.CallMeta) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		start, code := time.Now(), codes.Internal
		series := h.m.server.method(kindOf(info.IsClientStream, info.IsServerStream), info.FullMethod, srv != nil)
		defer func() { h.end(stream.Context(), series, start, code) }()
		err := handler(srv, stream)
		code = codeOf(err)
		return err
	}
}

func (h *Handlers) end(ctx context.Context, m *method, start time.Time, code codes.Code) {
	h.m.trace.observe(ctx, m.handler.of(classOf(ctx, code, m.served)), time.Since(start).Seconds())
}
