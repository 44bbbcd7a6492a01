package tracing

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/rpc"
	"github.com/meshlite-go/meshlite/internal/wire"
)

func (m *method) call(ctx context.Context, name string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	ctx, span := m.tracer.Start(ctx, m.name, m.beginTo(cc)...)
	if !span.IsRecording() {
		return invoker(ctx, name, req, reply, cc, opts...)
	}
	ctx, outcome := m.listen(ctx, span)
	ctx, record := attempt.FromOrNew(ctx, attempt.Unary)
	err = rpc.ErrPanic
	defer func() {
		setOutcome(span, outcome)
		setRoute(span, record.Latest())
		m.end(span, err)
	}()
	err = invoker(ctx, name, req, reply, cc, opts...)
	return err
}

func (m *method) open(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, name string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, span := m.tracer.Start(ctx, m.name, m.beginTo(cc)...)
	if !span.IsRecording() {
		return streamer(ctx, desc, cc, name, opts...)
	}
	ctx, outcome := m.listen(ctx, span)
	ctx, record := attempt.FromOrNew(ctx, attempt.Stream)
	return rpc.OpenStream(ctx, desc, cc, name, streamer, opts, func(err error) {
		setOutcome(span, outcome)
		setRoute(span, record.Latest())
		m.end(span, err)
	})
}

func (m *method) attempt(ctx context.Context, name string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	if !sampled(ctx) {
		return invoker(inject(ctx, m.propagators), name, req, reply, cc, opts...)
	}
	ctx, record := attempt.FromOrNew(ctx, attempt.Unary)
	ctx, span := m.tracer.Start(ctx, m.attemptName, m.beginTo(cc)...)
	var trailer metadata.MD
	err = rpc.ErrPanic
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
	return rpc.OpenStream(inject(ctx, m.propagators), desc, cc, name, streamer, opts, func(err error) {
		m.endAttempt(span, record, err)
	})
}

// sampled reports whether the call is. Its span may have ended: a refresh of the cache
// goes on after the call that has caused it.
func sampled(ctx context.Context) bool { return trace.SpanContextFromContext(ctx).IsSampled() }

func (m *method) endAttempt(span trace.Span, record *attempt.Record, err error) {
	span.SetAttributes(attribute.Int("meshlite.attempt.number", record.Number()))
	setRoute(span, record)
	if instance := record.Picked(); instance != nil {
		span.SetAttributes(attribute.String("meshlite.instance.id", cut(instance.ID)))
		span.SetAttributes(peerAt(instance.Address)...)
	}
	m.end(span, err)
}
