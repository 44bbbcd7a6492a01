package cache

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// server answers a call from the cache or stores what the handler answers.
func (r *rule) server(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	key, known := r.key(ctx, "", req)
	if !known {
		r.finish(Bypass)
		return handler(ctx, req)
	}
	if e := r.load(key); e != nil {
		if reply := e.message.New().Interface(); proto.Unmarshal(e.body, reply) == nil {
			r.finish(Hit)
			e.send(ctx)
			return reply, nil
		}
	}
	r.finish(Miss)
	sent := &recorder{ServerTransportStream: grpc.ServerTransportStreamFromContext(ctx)}
	if sent.ServerTransportStream != nil {
		ctx = grpc.NewContextWithServerTransportStream(ctx, sent)
	}
	reply, err := handler(ctx, req)
	if err != nil {
		return reply, err
	}
	if answer, ok := reply.(proto.Message); ok {
		header, trailer := sent.recorded()
		r.store(key, answer, header, trailer)
	}
	return reply, nil
}

// send gives the caller the metadata that the answer came with. Without a
// transport, as in a test that calls the interceptor itself, there is nobody to
// give it to.
func (e *entry) send(ctx context.Context) {
	if len(e.header) > 0 {
		_ = grpc.SetHeader(ctx, e.header)
	}
	if len(e.trailer) > 0 {
		_ = grpc.SetTrailer(ctx, e.trailer)
	}
}

// recorder notes the metadata that a handler sends.
type recorder struct {
	grpc.ServerTransportStream

	mu              sync.Mutex
	header, trailer metadata.MD
}

func (s *recorder) SetHeader(md metadata.MD) error {
	return s.record(&s.header, md, s.ServerTransportStream.SetHeader(md))
}

func (s *recorder) SendHeader(md metadata.MD) error {
	return s.record(&s.header, md, s.ServerTransportStream.SendHeader(md))
}

func (s *recorder) SetTrailer(md metadata.MD) error {
	return s.record(&s.trailer, md, s.ServerTransportStream.SetTrailer(md))
}

func (s *recorder) record(to *metadata.MD, md metadata.MD, err error) error {
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		*to = metadata.Join(*to, md)
	}
	return err
}

func (s *recorder) recorded() (header, trailer metadata.MD) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.header, s.trailer
}
