package metrics

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/interceptors"
)

// StreamClient measures streams. A stream ends when gRPC says so: after its last
// message, when its context is cancelled, when the channel is closed.
func (m *Metrics) StreamClient(*interceptors.CallMeta) grpc.StreamClientInterceptor {
	return m.StreamClientInterceptor()
}

// StreamClientInterceptor is for use without a chain.
func (m *Metrics) StreamClientInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		series := m.client.method(kindOf(desc.ClientStreams, desc.ServerStreams), method, true)
		return series.open(ctx, m.trace, desc, cc, method, streamer, opts)
	}
}

// StreamServer measures streams from the call of the handler to its return.
func (m *Metrics) StreamServer(*interceptors.CallMeta) grpc.StreamServerInterceptor {
	return m.StreamServerInterceptor()
}

// StreamServerInterceptor is for use without a chain.
func (m *Metrics) StreamServerInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		series := m.server.method(kindOf(info.IsClientStream, info.IsServerStream), info.FullMethod, srv != nil)
		return series.serveStream(m.trace, srv, stream, handler)
	}
}

func (m *method) open(ctx context.Context, trace traceOf, desc *grpc.StreamDesc, cc *grpc.ClientConn, name string, streamer grpc.Streamer, opts []grpc.CallOption) (grpc.ClientStream, error) {
	s := &measuredClientStream{ctx: ctx, method: m, trace: trace, start: m.start()}
	returned := false
	defer func() {
		if !returned {
			s.end(codes.Internal)
		}
	}()
	stream, err := streamer(ctx, desc, cc, name, append(slices.Clip(opts), grpc.OnFinish(s.finished))...)
	returned = true
	if err != nil {
		s.finished(err)
		return nil, err
	}
	s.ClientStream = stream
	return s, nil
}

func (m *method) serveStream(trace traceOf, srv any, stream grpc.ServerStream, handler grpc.StreamHandler) error {
	start, code := m.start(), codes.Internal
	defer func() { m.end(stream.Context(), trace, start, code) }()
	err := handler(srv, &measuredServerStream{stream, m})
	code = codeOf(err)
	return err
}

// measuredClientStream counts messages, and the end of the stream once: gRPC
// tells it, unless an interceptor in between answers in its place.
type measuredClientStream struct {
	grpc.ClientStream
	ctx    context.Context // of the caller
	method *method
	trace  traceOf
	start  time.Time
	once   sync.Once
}

func (s *measuredClientStream) end(code codes.Code) {
	s.once.Do(func() { s.method.end(s.ctx, s.trace, s.start, code) })
}

func (s *measuredClientStream) finished(err error) {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	s.end(codeOf(err))
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
	if err != nil {
		s.finished(err)
		return err
	}
	s.method.received.count(message)
	return nil
}

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
