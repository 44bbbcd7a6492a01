package rpc

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
)

// OpenStream opens a stream and calls end once when the stream is over, in whichever
// goroutine that happens: when gRPC says so, when an interceptor further in ends the
// stream without gRPC, when opening fails or panics ([ErrPanic]). The end of all messages
// is nil. Of two that follow one stream, the inner is called first.
func OpenStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts []grpc.CallOption, end func(error)) (grpc.ClientStream, error) {
	s := &clientStream{single: !desc.ServerStreams, end: end}
	err := ErrPanic
	defer func() {
		if err != nil {
			s.finish(err)
		}
	}()
	opts = append([]grpc.CallOption{grpc.OnFinish(s.finish)}, opts...)
	s.ClientStream, err = streamer(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// clientStream is a stream made by [OpenStream].
type clientStream struct {
	grpc.ClientStream
	single bool // the server sends one message
	once   sync.Once
	end    func(error)
}

func (s *clientStream) finish(err error) {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	s.once.Do(func() { s.end(err) })
}

// RecvMsg receives. gRPC reports the end of a stream before RecvMsg returns it.
func (s *clientStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if err != nil || s.single {
		s.finish(err)
	}
	return err
}

// WithContext returns stream with another context.
func WithContext(stream grpc.ServerStream, ctx context.Context) grpc.ServerStream {
	return &serverStream{stream, ctx}
}

type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context is the one that the stream was given.
func (s *serverStream) Context() context.Context { return s.ctx }
