package tracing

import (
	"context"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/internal/rpc"
)

func (m *method) serve(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	ctx = m.propagators.Extract(ctx, incoming{ctx})
	ctx, span := m.tracer.Start(ctx, m.name, m.begin...)
	if !span.IsRecording() {
		return handler(ctx, req)
	}
	ctx, end := m.receive(ctx, span)
	err = rpc.ErrPanic
	defer func() { end(err) }()
	reply, err = handler(ctx, req)
	return reply, err
}

func (m *method) serveStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	ctx := m.propagators.Extract(stream.Context(), incoming{stream.Context()})
	name, begin := m.name, m.begin
	if srv == nil { // grpc.UnknownServiceHandler: the caller has made the name up
		name, begin = other, m.beginning(semconv.RPCMethod(other), semconv.RPCMethodOriginal(spanName(info.FullMethod)))
	}
	ctx, span := m.tracer.Start(ctx, name, begin...)
	if !span.IsRecording() {
		return handler(srv, rpc.WithContext(stream, ctx))
	}
	ctx, end := m.receive(ctx, span)
	err = rpc.ErrPanic
	defer func() { end(err) }()
	err = handler(srv, rpc.WithContext(stream, ctx))
	return err
}

// receive records the peer, and listens to the events of the call.
func (m *method) receive(ctx context.Context, span trace.Span) (context.Context, func(error)) {
	span.SetAttributes(peerOf(ctx)...)
	ctx, outcome := m.listen(ctx, span)
	return ctx, func(err error) {
		setOutcome(span, outcome)
		m.end(span, err)
	}
}
