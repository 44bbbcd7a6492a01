package logging

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/rpc"
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
	stream, err := rpc.OpenStream(ctx, desc, cc, method, streamer, opts, func(err error) {
		if !desc.ServerStreams && err == nil {
			c.messages.received.Store(1) // gRPC reports the end before RecvMsg returns the message
		}
		p.end(c, err)
	})
	if err != nil {
		return nil, err
	}
	return &clientStream{stream, !desc.ServerStreams, c.messages}, nil
}

// clientStream counts the messages of a client.
type clientStream struct {
	grpc.ClientStream
	single   bool // the server sends one message
	messages *messages
}

// SendMsg counts what is sent.
func (s *clientStream) SendMsg(message any) error {
	err := s.ClientStream.SendMsg(message)
	if err == nil {
		s.messages.sent.Add(1)
	}
	return err
}

// RecvMsg counts what is received.
func (s *clientStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if err == nil && !s.single {
		s.messages.received.Add(1)
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
	err = rpc.ErrPanic
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

// Context has the outcome that the line reports.
func (s *serverStream) Context() context.Context { return s.ctx }

// SendMsg counts what is sent.
func (s *serverStream) SendMsg(message any) error {
	err := s.ServerStream.SendMsg(message)
	if err == nil {
		s.messages.sent.Add(1)
	}
	return err
}

// RecvMsg counts what is received.
func (s *serverStream) RecvMsg(message any) error {
	err := s.ServerStream.RecvMsg(message)
	if err == nil {
		s.messages.received.Add(1)
	}
	return err
}
