// Package deadline gives calls the timeout that their policy says, or their route if that is
// shorter. It shortens the deadline of the caller and never lengthens it; a call that takes longer
// ends with DEADLINE_EXCEEDED, and the error says whose timeout it was.
//
//	limited, err := deadline.New()
//	chain, err := interceptors.Chain(interceptors.Client, policies, limited)
//
// A route is that of package routing, which comes before, in the record of the call. A policy's
// timeout is set on the client, from where gRPC carries it to the server,
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
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// Deadline is the concern. It is safe for concurrent use.
type Deadline struct {
	observer  interceptors.Observer
	publisher *interceptors.Publisher // of observer
}

// Exceeded is the event of a call that failed when the timeout of its policy or route was over,
// and not the deadline of its caller.
type Exceeded struct {
	Route bool // it was the timeout of the route
}

// Stage is [interceptors.Deadline].
func (Exceeded) Stage() interceptors.Stage { return interceptors.Deadline }

// Result is whose timeout it was: "policy" or "route".
func (e Exceeded) Result() string {
	if e.Route {
		return "route"
	}
	return "policy"
}

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

// timeout is what bounds a call.
type timeout struct {
	time.Duration                // 0 is none
	route         *attempt.Route // whose it is; nil is the policy's
}

// ofClient is the shorter one of the policy's timeout and that of the route which the call goes by.
func ofClient(ctx context.Context, policy time.Duration) timeout {
	if record := attempt.FromContext(ctx); record != nil {
		if route := record.Route(); route != nil && route.Timeout > 0 && (policy == 0 || route.Timeout < policy) {
			return timeout{route.Timeout, route}
		}
	}
	return timeout{policy, nil}
}

func (t timeout) String() string {
	if t.route != nil {
		return fmt.Sprintf("timeout of route %q, arm %q: %v", t.route.Name, t.route.Arm, t.Duration)
	}
	return fmt.Sprintf("timeout of the policy: %v", t.Duration)
}

// call is one that has a timeout.
type call struct {
	*Deadline
	meta    *interceptors.CallMeta
	timeout timeout
	ctx     context.Context // ends when the time is up
	cancel  context.CancelFunc
}

// begin starts the time of a call. It is not bounded without a timeout, and where ctx ends within
// it anyway, so that it needs no timer of its own.
func (d *Deadline) begin(ctx context.Context, meta *interceptors.CallMeta, t timeout) (c call, bounded bool) {
	deadline, ok := ctx.Deadline()
	if t.Duration <= 0 || ok && time.Until(deadline) <= t.Duration {
		return call{}, false
	}
	c = call{Deadline: d, meta: meta, timeout: t}
	c.note(ctx)
	c.ctx, c.cancel = context.WithTimeout(ctx, t.Duration)
	return c, true
}

// failed reports whether the call with this error failed when its time was up.
func (c *call) failed(err error) bool {
	return err != nil && errors.Is(c.ctx.Err(), context.DeadlineExceeded)
}

// publish reports the end of the call to the observer.
func (c *call) publish(err error) {
	if c.failed(err) {
		c.publisher.Publish(c.ctx, c.meta, Exceeded{Route: c.timeout.route != nil})
	}
}

// note says in the record of a call whose timeout has set its deadline.
func (c *call) note(ctx context.Context) {
	by := "policy"
	if c.timeout.route != nil {
		by = "route"
	}
	interceptors.Note(ctx, c.meta, func(h *hop.Hop) {
		h.Deadline = &hop.Deadline{Left: hop.Milliseconds(c.timeout.Duration), By: by}
	})
}

// explain says in the error of a call that failed when its time was up whose timeout it was. An
// error without a status, such as that of a database driver, is DEADLINE_EXCEEDED; other codes
// stay.
func (c *call) explain(err error) error {
	if !c.failed(err) || errors.Is(err, io.EOF) {
		return err
	}
	s, ok := status.FromError(err)
	if !ok {
		s = status.New(codes.DeadlineExceeded, err.Error())
	}
	if s.Code() != codes.DeadlineExceeded {
		return err
	}
	explained := s.Proto()
	explained.Message += " (" + c.timeout.String() + ")"
	return &exceededError{status.FromProto(explained), err}
}

// end publishes and explains.
func (c *call) end(err error) error {
	c.publish(err)
	return c.explain(err)
}

// exceededError has the status of a call whose time was up.
type exceededError struct {
	status *status.Status
	err    error // that it had
}

func (e *exceededError) Error() string { return e.status.Err().Error() }

// GRPCStatus is that with the timeout.
func (e *exceededError) GRPCStatus() *status.Status { return e.status }

// Unwrap returns the error without it.
func (e *exceededError) Unwrap() error { return e.err }

// UnaryClient bounds the calls of a method.
func (d *Deadline) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	policy := meta.Timeout()
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		c, bounded := d.begin(ctx, meta, ofClient(ctx, policy))
		if !bounded {
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		defer c.cancel()
		return c.end(invoker(c.ctx, method, req, reply, cc, opts...))
	}
}

// StreamClient bounds the streams of a method.
// The timer goes when the stream has ended, at the latest when it fires.
func (d *Deadline) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	policy := meta.Timeout()
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		c, bounded := d.begin(ctx, meta, ofClient(ctx, policy))
		if !bounded {
			return streamer(ctx, desc, cc, method, opts...)
		}
		stream, err := rpc.OpenStream(c.ctx, desc, cc, method, streamer, opts, func(err error) {
			c.publish(err)
			c.cancel()
		})
		if err != nil {
			return nil, c.explain(err)
		}
		return &boundedStream{stream, &c}, nil
	}
}

// boundedStream is a stream whose errors name the timeout.
type boundedStream struct {
	grpc.ClientStream
	call *call
}

// Header waits for the header, as gRPC's does.
func (s *boundedStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	return md, s.call.explain(err)
}

// SendMsg sends, as gRPC's does.
func (s *boundedStream) SendMsg(message any) error {
	return s.call.explain(s.ClientStream.SendMsg(message))
}

// RecvMsg receives, as gRPC's does.
func (s *boundedStream) RecvMsg(message any) error {
	return s.call.explain(s.ClientStream.RecvMsg(message))
}

// UnaryServer bounds the handler of a method that has a timeout on the server.
func (d *Deadline) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	own := timeout{meta.Timeout(), nil}
	if own.Duration == 0 {
		return nil
	}
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		c, bounded := d.begin(ctx, meta, own)
		if !bounded {
			return handler(ctx, req)
		}
		defer c.cancel()
		reply, err := handler(c.ctx, req)
		return reply, c.end(err)
	}
}

// StreamServer bounds the handler of a method that has a timeout on the server.
func (d *Deadline) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	own := timeout{meta.Timeout(), nil}
	if own.Duration == 0 {
		return nil
	}
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		c, bounded := d.begin(stream.Context(), meta, own)
		if !bounded {
			return handler(srv, stream)
		}
		defer c.cancel()
		return c.end(handler(srv, rpc.WithContext(stream, c.ctx)))
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
