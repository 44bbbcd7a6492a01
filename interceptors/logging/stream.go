package logging

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// messages are those of a stream.
type messages struct{ sent, received atomic.Int64 }

func (p part) open(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if p.off(ctx) {
		return streamer(ctx, desc, cc, method, opts...)
	}
	p = p.limited()
	c := &call{ctx: ctx, method: method, start: time.Now(), messages: &messages{}}
	ctx, c.record = attempt.FromOrNew(p.listen(c, ctx), attempt.Stream)
	s := &clientStream{call: c, single: !desc.ServerStreams, end: func(err error) { p.end(c, err) }}
	err := errPanic
	defer func() {
		if err != nil {
			s.finished(err)
		}
	}()
	// First, so that the line is written before a span of tracing ends.
	opts = append([]grpc.CallOption{grpc.OnFinish(s.finished)}, opts...)
	s.ClientStream, err = streamer(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// clientStream is a stream of a client. gRPC tells of its end, unless an interceptor in
// between answers in its place.
type clientStream struct {
	grpc.ClientStream
	call   *call
	single bool // one message is all that comes
	once   sync.Once
	end    func(error)
}

func (s *clientStream) finished(err error) {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	s.once.Do(func() {
		if s.single && err == nil {
			s.call.messages.received.Store(1) // gRPC tells of the end before it gives the message
		}
		s.end(err)
	})
}

// SendMsg counts what is sent.
func (s *clientStream) SendMsg(message any) error {
	err := s.ClientStream.SendMsg(message)
	if err == nil {
		s.call.messages.sent.Add(1)
	}
	return err
}

// RecvMsg counts what comes.
func (s *clientStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if err == nil && !s.single {
		s.call.messages.received.Add(1)
	}
	if err != nil || s.single {
		s.finished(err)
	}
	return err
}

func (p part) serveStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	ctx := stream.Context()
	if p.off(ctx) {
		return handler(srv, stream)
	}
	p = p.limited()
	s := &serverStream{ServerStream: stream}
	c := call{ctx: ctx, method: info.FullMethod, unserved: srv == nil, start: time.Now(), messages: &s.messages}
	s.ctx = p.listen(&c, ctx)
	err = errPanic
	defer func() { p.end(&c, err) }()
	err = handler(srv, s)
	return err
}

// serverStream is a stream of a server, with its messages counted.
type serverStream struct {
	grpc.ServerStream
	ctx      context.Context
	messages messages
}

// Context has the outcome that the line tells.
func (s *serverStream) Context() context.Context { return s.ctx }

// SendMsg counts what is sent.
func (s *serverStream) SendMsg(message any) error {
	err := s.ServerStream.SendMsg(message)
	if err == nil {
		s.messages.sent.Add(1)
	}
	return err
}

// RecvMsg counts what comes.
func (s *serverStream) RecvMsg(message any) error {
	err := s.ServerStream.RecvMsg(message)
	if err == nil {
		s.messages.received.Add(1)
	}
	return err
}
