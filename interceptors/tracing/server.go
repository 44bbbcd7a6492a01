package tracing

import (
	"context"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
)

// UnaryServer makes the span of a call that is handled, below the attempt that the
// metadata tells of. It is nil where there is nothing to trace.
func (t *Tracing) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	if m := t.newMethod(meta); m != nil {
		return m.serve
	}
	return nil
}

// StreamServer makes the span of a stream that is handled, from the call of the
// handler to its return.
func (t *Tracing) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	if m := t.newMethod(meta); m != nil {
		return m.serveStream
	}
	return nil
}

// UnaryServerInterceptor is for use without a chain of concerns. It panics without
// policies.
func (t *Tracing) UnaryServerInterceptor(policies *interceptors.Policies) grpc.UnaryServerInterceptor {
	return t.alone(interceptors.Server, policies).UnaryServer()
}

// StreamServerInterceptor is for use without a chain of concerns. It panics without
// policies.
func (t *Tracing) StreamServerInterceptor(policies *interceptors.Policies) grpc.StreamServerInterceptor {
	return t.alone(interceptors.Server, policies).StreamServer()
}

func (m *method) serve(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	ctx = m.propagators.Extract(ctx, incoming{ctx})
	ctx, span := m.tracer.Start(ctx, m.name, m.begin...)
	if !span.IsRecording() {
		return handler(ctx, req)
	}
	ctx, end := m.receive(ctx, span)
	err = errPanic
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
		return handler(srv, &servedStream{stream, ctx})
	}
	ctx, end := m.receive(ctx, span)
	err = errPanic
	defer func() { end(err) }()
	err = handler(srv, &servedStream{stream, ctx})
	return err
}

// receive writes down who calls, and listens to what becomes of the call.
func (m *method) receive(ctx context.Context, span trace.Span) (context.Context, func(error)) {
	span.SetAttributes(peerOf(ctx)...)
	ctx, outcome := interceptors.Listen(ctx, m.side, m.fullMethod)
	return ctx, func(err error) {
		setOutcome(span, outcome)
		m.end(span, err)
	}
}

// servedStream is a stream whose handler knows the trace.
type servedStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context has the span.
func (s *servedStream) Context() context.Context { return s.ctx }
