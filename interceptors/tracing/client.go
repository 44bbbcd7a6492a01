package tracing

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
)

// UnaryClient makes the span of a call, nil where there is nothing to trace.
func (t *Tracing) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	if m := t.newMethod(meta); m != nil {
		return m.call
	}
	return nil
}

// StreamClient makes the span of a stream, nil where there is nothing to trace.
func (t *Tracing) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	if m := t.newMethod(meta); m != nil {
		return m.open
	}
	return nil
}

// UnaryClientInterceptor is for use without a chain of concerns. It takes each call for
// one attempt, and so belongs outside of what may answer without one and inside of
// what retries. It panics without policies.
func (t *Tracing) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	return t.alone(interceptors.Client, policies).UnaryClient()
}

// StreamClientInterceptor is for use without a chain of concerns. It panics without
// policies.
func (t *Tracing) StreamClientInterceptor(policies *interceptors.Policies) grpc.StreamClientInterceptor {
	return t.alone(interceptors.Client, policies).StreamClient()
}

func (t *Tracing) alone(side interceptors.Side, policies *interceptors.Policies) *interceptors.Chained {
	chain, err := interceptors.Chain(side, policies, t)
	if err != nil {
		panic(err)
	}
	return chain
}

func (m *method) call(ctx context.Context, name string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	ctx, span := m.tracer.Start(ctx, m.name, m.beginTo(cc)...)
	if !span.IsRecording() {
		return invoker(ctx, name, req, reply, cc, opts...)
	}
	ctx, outcome := interceptors.Listen(ctx, m.side, m.fullMethod)
	err = errPanic
	defer func() {
		setOutcome(span, outcome)
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
	ctx, outcome := interceptors.Listen(ctx, m.side, m.fullMethod)
	return follow(ctx, desc, cc, name, streamer, opts, func(err error) {
		setOutcome(span, outcome)
		m.end(span, err)
	})
}

// follow opens a stream and has end called once when it is over: gRPC tells, unless an
// interceptor in between answers in its place.
func follow(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, name string, streamer grpc.Streamer, opts []grpc.CallOption, end func(error)) (grpc.ClientStream, error) {
	var once sync.Once
	finished := func(err error) {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		once.Do(func() { end(err) })
	}
	err := errPanic
	defer func() {
		if err != nil {
			finished(err)
		}
	}()
	// First, so that of two spans the inner one ends before the outer.
	opts = append([]grpc.CallOption{grpc.OnFinish(finished)}, opts...)
	stream, err := streamer(ctx, desc, cc, name, opts...)
	if err != nil {
		return nil, err
	}
	return &followed{stream, !desc.ServerStreams, finished}, nil
}

// followed is a stream whose end is noticed.
type followed struct {
	grpc.ClientStream
	single   bool // one message is all that comes
	finished func(error)
}

// RecvMsg receives.
func (f *followed) RecvMsg(message any) error {
	err := f.ClientStream.RecvMsg(message)
	if err != nil || f.single {
		f.finished(err)
	}
	return err
}
