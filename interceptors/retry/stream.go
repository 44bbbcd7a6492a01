package retry

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
)

// maxReplayed is how many sent messages a stream keeps to send them again. With more sent
// before the first answer it stays where it is.
const maxReplayed = 16

// StreamClient tries a stream on another instance where no handler ran for it, until its
// first message is received. Streams are not retried for other reasons.
func (r *Retry) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	m := r.unruled(meta, newRule(meta.Policy.GetRetry()))
	if m == nil {
		return nil
	}
	return m.stream
}

func (m *method) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, name string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	m.budget.earn()
	ctx, record := attempt.FromOrNew(ctx, attempt.Stream)
	s := &stream{method: m, ctx: ctx, options: newOptions(opts), record: record}
	s.open = func(ctx context.Context, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return streamer(ctx, desc, cc, name, opts...)
	}
	first, err := s.open(ctx, s.with(record)...)
	for err != nil && m.moves(ctx, s.record, err) {
		first, err = s.next()
	}
	if err != nil {
		s.options.finish(err)
		return nil, err
	}
	s.current.Store(&first)
	return s, nil
}

// stream is one that begins anew on another instance while nothing was received. As with
// gRPC's own, one goroutine may send while another receives.
type stream struct {
	method  *method
	ctx     context.Context
	open    func(context.Context, ...grpc.CallOption) (grpc.ClientStream, error)
	options options

	current atomic.Pointer[grpc.ClientStream]
	settled atomic.Bool // it stays where it is

	mu     sync.Mutex // sending, and beginning anew
	record *attempt.Record
	sent   []any // until it is settled
	closed bool
}

// with are the options of one attempt. OnFinish is not called for one that is followed by
// another.
func (s *stream) with(record *attempt.Record) []grpc.CallOption {
	if len(s.options.finishes) == 0 {
		return s.options.all
	}
	return append(slices.Clip(s.options.all), grpc.OnFinish(func(err error) {
		if err == nil || s.settled.Load() || !s.method.movable(record, err) {
			s.options.finish(err)
		}
	}))
}

// next begins another attempt. The caller holds s.mu, or is the only one to know s.
func (s *stream) next() (grpc.ClientStream, error) {
	s.record = s.record.Next()
	s.options.reset(nil)
	return s.open(following(s.ctx, s.record), s.with(s.record)...)
}

func (s *stream) now() grpc.ClientStream { return *s.current.Load() }

// RecvMsg receives, from another instance if the one before ran no handler.
func (s *stream) RecvMsg(message any) error {
	for {
		err := s.now().RecvMsg(message)
		if s.settled.Load() {
			return err
		}
		if err != nil && !errors.Is(err, io.EOF) && s.move(err) {
			continue
		}
		s.settle()
		return err
	}
}

// settle forgets what was sent, at once if nobody is sending.
func (s *stream) settle() {
	s.settled.Store(true)
	if s.mu.TryLock() {
		s.sent = nil
		s.mu.Unlock()
	}
}

// move begins anew after err, and sends what was sent.
func (s *stream) move(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settled.Load() {
		return false
	}
	failed := s.record
	if !s.method.moves(s.ctx, failed, err) {
		s.finish(failed, err)
		return false
	}
	stream, failure := s.next()
	if failure == nil && s.replay(stream) {
		s.current.Store(&stream)
		return true
	}
	s.finish(failed, err)
	return false
}

// finish makes good for an OnFinish that was kept back for an attempt that might have been
// followed by another.
func (s *stream) finish(failed *attempt.Record, err error) {
	if s.method.movable(failed, err) {
		s.options.finish(err)
	}
}

// replay sends what was sent before. That the stream has ended again is found by RecvMsg.
func (s *stream) replay(stream grpc.ClientStream) bool {
	for _, message := range s.sent {
		if err := stream.SendMsg(message); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
	return !s.closed || stream.CloseSend() == nil
}

// mayMove reports whether a stream that has ended may begin anew, as far as is known before
// its status is. The caller holds s.mu.
func (s *stream) mayMove() bool {
	end := s.record.End()
	return end&attempt.Answer == 0 || end&attempt.Unhandled != 0 || s.method.meta.Retryable()
}

// SendMsg sends, and keeps the message until the stream is settled. The end of a stream
// that may move is left to RecvMsg.
func (s *stream) SendMsg(message any) error {
	s.mu.Lock()
	if !s.settled.Load() && len(s.sent) < maxReplayed {
		defer s.mu.Unlock()
		s.sent = append(s.sent, message)
		err := s.now().SendMsg(message)
		if errors.Is(err, io.EOF) && s.mayMove() {
			return nil
		}
		return err
	}
	s.settled.Store(true)
	s.sent = nil
	s.mu.Unlock()
	return s.now().SendMsg(message)
}

// CloseSend ends sending.
func (s *stream) CloseSend() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.now().CloseSend()
}

// Header is that of the latest attempt, as the others are.
func (s *stream) Header() (metadata.MD, error) { return s.now().Header() }

// Trailer is known when RecvMsg has returned an error.
func (s *stream) Trailer() metadata.MD { return s.now().Trailer() }

// Context is that of the latest attempt.
func (s *stream) Context() context.Context { return s.now().Context() }
