package tracing

import (
	"context"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
)

// pushbackKey is the trailer by which a server says when to try again (gRFC A6).
const pushbackKey = "grpc-retry-pushback-ms"

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
	ctx, record := attempt.Of(ctx, attempt.Unary)
	ctx, span := m.tracer.Start(ctx, m.attemptName, m.beginTo(cc)...)
	var trailer metadata.MD
	err = errPanic
	defer func() {
		if ms, given := pushback(trailer); given {
			span.SetAttributes(attribute.Int64("meshlite.retry.pushback_ms", ms))
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
	ctx, record := attempt.Of(ctx, attempt.Stream)
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

// pushback reads the trailer as gRPC does: what is no number from 0 on means never.
func pushback(trailer metadata.MD) (ms int64, given bool) {
	values := trailer.Get(pushbackKey)
	if len(values) == 0 {
		return 0, false
	}
	n, err := strconv.ParseUint(values[0], 10, 31)
	if err != nil || len(values) > 1 {
		return -1, true
	}
	return int64(n), true
}
