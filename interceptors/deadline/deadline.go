// Package deadline gives calls the timeout that their policy says. It shortens
// the deadline of the caller and never lengthens it; a call that takes longer
// ends with DEADLINE_EXCEEDED.
//
//	limited, err := deadline.New()
//	chain, err := interceptors.Chain(interceptors.Client, policies, limited)
//
// The timeout is set on the client, from where gRPC carries it to the server,
// unless the rule says timeout_side. Retries and waits share it. A stream is
// bounded as a whole, from its opening to its end, so a method that streams for
// ever must not have a timeout.
//
// On the server the timeout ends the context that the handler is given. A handler
// must obey it: one that is blocked in Recv is woken by the deadline of the
// client, not by this one.
package deadline

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// Deadline is the concern. It is safe for concurrent use.
type Deadline struct {
	observer  interceptors.Observer
	publisher *interceptors.Publisher // of observer
}

// Exceeded is the event of a call that failed when the timeout of its policy was over,
// and not the deadline of its caller.
type Exceeded struct{}

// Stage is [interceptors.Deadline].
func (Exceeded) Stage() interceptors.Stage { return interceptors.Deadline }

// Result is "exceeded".
func (Exceeded) Result() string { return "exceeded" }

// Option changes what [New] makes.
type Option func(*Deadline)

// WithObserver sets what receives an [Exceeded] for each call that took too long, such as
// a counter.
func WithObserver(observer interceptors.Observer) Option {
	return func(d *Deadline) { d.observer = observer }
}

// New makes the concern. A nil observer is an error.
func New(opts ...Option) (*Deadline, error) {
	d := &Deadline{observer: interceptors.ObserverFunc(nil)}
	for _, opt := range opts {
		opt(d)
	}
	if d.observer == nil {
		return nil, errors.New("deadline: WithObserver(nil): leave the option out for no observer")
	}
	d.publisher = interceptors.NewPublisher(d.observer)
	return d, nil
}

// Stage is [interceptors.Deadline].
func (d *Deadline) Stage() interceptors.Stage { return interceptors.Deadline }

// sooner reports whether ctx ends within timeout anyway, so that it needs no
// timer of its own.
func sooner(ctx context.Context, timeout time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) <= timeout
}

// ended gives a call that failed when its time was up a status: an error without
// one, such as that of a database driver, is DEADLINE_EXCEEDED.
func (d *Deadline) ended(ctx context.Context, meta *interceptors.CallMeta, err error) error {
	if err == nil || !expired(ctx) {
		return err
	}
	d.publisher.Publish(ctx, meta, Exceeded{})
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.DeadlineExceeded, err.Error())
}

// noteTimeout says in the record of a call that the policy has set its deadline.
func noteTimeout(ctx context.Context, meta *interceptors.CallMeta, timeout time.Duration) {
	interceptors.Note(ctx, meta, func(h *hop.Hop) {
		h.Deadline = &hop.Deadline{Left: hop.Milliseconds(timeout), By: "policy"}
	})
}

func expired(ctx context.Context) bool { return errors.Is(ctx.Err(), context.DeadlineExceeded) }

// UnaryClient bounds the calls of a method that has a timeout on the client.
func (d *Deadline) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	timeout := meta.Timeout()
	if timeout == 0 {
		return nil
	}
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if sooner(ctx, timeout) {
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		noteTimeout(ctx, meta, timeout)
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return d.ended(ctx, meta, invoker(ctx, method, req, reply, cc, opts...))
	}
}

// StreamClient bounds the streams of a method that has a timeout on the client.
// The timer goes when the stream has ended, at the latest when it fires.
func (d *Deadline) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	timeout := meta.Timeout()
	if timeout == 0 {
		return nil
	}
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		if sooner(ctx, timeout) {
			return streamer(ctx, desc, cc, method, opts...)
		}
		noteTimeout(ctx, meta, timeout)
		ctx, cancel := context.WithTimeout(ctx, timeout)
		return rpc.OpenStream(ctx, desc, cc, method, streamer, opts, func(err error) {
			_ = d.ended(ctx, meta, err) // gRPC's errors have a status
			cancel()
		})
	}
}

// UnaryServer bounds the handler of a method that has a timeout on the server.
func (d *Deadline) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	timeout := meta.Timeout()
	if timeout == 0 {
		return nil
	}
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if sooner(ctx, timeout) {
			return handler(ctx, req)
		}
		noteTimeout(ctx, meta, timeout)
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		reply, err := handler(ctx, req)
		return reply, d.ended(ctx, meta, err)
	}
}

// StreamServer bounds the handler of a method that has a timeout on the server.
func (d *Deadline) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	timeout := meta.Timeout()
	if timeout == 0 {
		return nil
	}
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if sooner(stream.Context(), timeout) {
			return handler(srv, stream)
		}
		noteTimeout(stream.Context(), meta, timeout)
		ctx, cancel := context.WithTimeout(stream.Context(), timeout)
		defer cancel()
		return d.ended(ctx, meta, handler(srv, rpc.WithContext(stream, ctx)))
	}
}

// UnaryClientInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, d).UnaryClient()
}

// StreamClientInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) StreamClientInterceptor(policies *interceptors.Policies) grpc.StreamClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, d).StreamClient()
}

// UnaryServerInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) UnaryServerInterceptor(policies *interceptors.Policies) grpc.UnaryServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, d).UnaryServer()
}

// StreamServerInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) StreamServerInterceptor(policies *interceptors.Policies) grpc.StreamServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, d).StreamServer()
}
