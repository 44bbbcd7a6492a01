package metrics

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/internal/rpc"
)

func (m *method) open(ctx context.Context, trace traceOf, desc *grpc.StreamDesc, cc *grpc.ClientConn, name string, streamer grpc.Streamer, opts []grpc.CallOption) (grpc.ClientStream, error) {
	start := m.start()
	stream, err := rpc.OpenStream(ctx, desc, cc, name, streamer, opts, func(err error) {
		m.end(ctx, trace, start, rpc.Code(err))
	})
	if err != nil {
		return nil, err
	}
	return &measuredClientStream{stream, m}, nil
}

func (m *method) serveStream(trace traceOf, srv any, stream grpc.ServerStream, handler grpc.StreamHandler) error {
	start, code := m.start(), codes.Internal
	defer func() { m.end(stream.Context(), trace, start, code) }()
	err := handler(srv, &measuredServerStream{stream, m})
	code = rpc.Code(err)
	return err
}

// measuredClientStream counts messages.
type measuredClientStream struct {
	grpc.ClientStream
	method *method
}

func (s *measuredClientStream) SendMsg(message any) error {
	err := s.ClientStream.SendMsg(message)
	if err == nil {
		s.method.sent.count(message)
	}
	return err
}

func (s *measuredClientStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if err == nil {
		s.method.received.count(message)
	}
	return err
}

// measuredServerStream counts messages.
type measuredServerStream struct {
	grpc.ServerStream
	method *method
}

func (s *measuredServerStream) SendMsg(message any) error {
	err := s.ServerStream.SendMsg(message)
	if err == nil {
		s.method.sent.count(message)
	}
	return err
}

func (s *measuredServerStream) RecvMsg(message any) error {
	err := s.ServerStream.RecvMsg(message)
	if err == nil {
		s.method.received.count(message)
	}
	return err
}
