package tracing

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// UnaryAttempt makes the span of an attempt and tells the server of it.
func (t *Tracing) UnaryAttempt(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	if m := t.newMethod(meta); m != nil {
		return m.attempt
	}
	return nil
}

// StreamAttempt makes the span of the attempt of a stream and tells the server of it.
func (t *Tracing) StreamAttempt(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	if m := t.newMethod(meta); m != nil {
		return m.openAttempt
	}
	return nil
}

func (m *method) attempt(ctx context.Context, name string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	if !sampled(ctx) {
		return invoker(inject(ctx, m.propagators), name, req, reply, cc, opts...)
	}
	ctx, record := attempt.FromOrNew(ctx, attempt.Unary)
	ctx, span := m.tracer.Start(ctx, m.attemptName, m.beginTo(cc)...)
	var trailer metadata.MD
	err = errPanic
	defer func() {
		if wait, given := wire.Pushback(trailer); given {
			span.SetAttributes(attribute.Int64("meshlite.retry.pushback_ms", wait.Milliseconds()))
		}
		m.endAttempt(span, record, err)
	}()
	opts = append(opts[:len(opts):len(opts)], grpc.Trailer(&trailer))
	err = invoker(inject(ctx, m.propagators), name, req, reply, cc, opts...)
	return err
}

func (m *method) openAttempt(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, name string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if !sampled(ctx) {
		return streamer(inject(ctx, m.propagators), desc, cc, name, opts...)
	}
	ctx, record := attempt.FromOrNew(ctx, attempt.Stream)
	ctx, span := m.tracer.Start(ctx, m.attemptName, m.beginTo(cc)...)
	return follow(inject(ctx, m.propagators), desc, cc, name, streamer, opts, func(err error) {
		m.endAttempt(span, record, err)
	})
}

// sampled reports whether the call is. Its span may have ended: a refresh of the cache
// goes on after the call that has caused it.
func sampled(ctx context.Context) bool { return trace.SpanContextFromContext(ctx).IsSampled() }

func (m *method) endAttempt(span trace.Span, record *attempt.Record, err error) {
	span.SetAttributes(attribute.Int("meshlite.attempt.number", record.Number()))
	if instance := record.Picked(); instance != nil {
		span.SetAttributes(attribute.String("meshlite.instance.id", cut(instance.ID)))
		span.SetAttributes(peerAt(instance.Address)...)
	}
	m.end(span, err)
}
