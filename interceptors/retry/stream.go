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
)

// maxReplayed is how many sent messages a stream keeps for another attempt. With more sent before
// the first response it is settled.
const maxReplayed = 16

// stream opens a stream, and moves it to another instance while no handler has run it.
func (m *method) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, name string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	m.budget.earn()
	ctx, record := attempt.FromOrNew(ctx, attempt.Stream)
	s := &movableStream{method: m, ctx: ctx, options: newCallOptions(opts), record: record}
	s.open = func(ctx context.Context, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return streamer(ctx, desc, cc, name, opts...)
	}
	first, err := s.open(ctx, s.attemptOptions(record)...)
	for err != nil {
		again, failure := m.again(ctx, s.record, result{err: err})
		if !again {
			s.options.finish.Run(failure)
			return nil, failure
		}
		first, err = s.next()
	}
	s.current.Store(&first)
	return s, nil
}

// movableStream is a stream that is retried on another instance while nothing was received. As
// with gRPC's streams, one goroutine may send while another receives.
type movableStream struct {
	method  *method
	ctx     context.Context
	open    func(context.Context, ...grpc.CallOption) (grpc.ClientStream, error)
	options callOptions

	current atomic.Pointer[grpc.ClientStream]
	settled atomic.Bool // there is no further attempt

	mu     sync.Mutex // for sending, and for another attempt
	record *attempt.Record
	sent   []any // until settled
	closed bool
}

// attemptOptions are the options of one attempt. OnFinish is not called for one that may be
// followed by another.
func (s *movableStream) attemptOptions(record *attempt.Record) []grpc.CallOption {
	if len(s.options.finish) == 0 {
		return s.options.all
	}
	return append(slices.Clip(s.options.all), grpc.OnFinish(func(err error) {
		if err == nil || s.settled.Load() || !s.method.movable(record, err) {
			s.options.finish.Run(err)
		}
	}))
}

// next starts another attempt. The caller holds s.mu, or is the only user of s.
func (s *movableStream) next() (grpc.ClientStream, error) {
	s.record = s.record.Next()
	s.options.reset(nil)
	return s.open(retryContext(s.ctx, s.record), s.attemptOptions(s.record)...)
}

func (s *movableStream) latest() grpc.ClientStream { return *s.current.Load() }

// RecvMsg receives, from another instance if no handler has run on the one before.
func (s *movableStream) RecvMsg(message any) error {
	for {
		err := s.latest().RecvMsg(message)
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

// settle drops the sent messages, unless a send is in progress, which drops them later.
func (s *movableStream) settle() {
	s.settled.Store(true)
	if s.mu.TryLock() {
		s.sent = nil
		s.mu.Unlock()
	}
}

// move starts another attempt after err and replays the sent messages.
func (s *movableStream) move(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settled.Load() {
		return false
	}
	failed := s.record
	if again, _ := s.method.again(s.ctx, failed, result{err: err}); !again {
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

// finish calls the OnFinish that was withheld for an attempt that might have been followed by
// another.
func (s *movableStream) finish(failed *attempt.Record, err error) {
	if s.method.movable(failed, err) {
		s.options.finish.Run(err)
	}
}

// replay sends the sent messages. RecvMsg returns the error if the stream has ended again.
func (s *movableStream) replay(stream grpc.ClientStream) bool {
	for _, message := range s.sent {
		if err := stream.SendMsg(message); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
	return !s.closed || stream.CloseSend() == nil
}

// mayMove reports whether a stream that has ended may be retried, before its status is read. The
// caller holds s.mu.
func (s *movableStream) mayMove() bool {
	end := s.record.End()
	return end&attempt.Answer == 0 || end&attempt.Unhandled != 0 || s.method.meta.Retryable()
}

// SendMsg sends, and keeps the message until the stream is settled. RecvMsg handles the end of a
// stream that may be retried.
func (s *movableStream) SendMsg(message any) error {
	s.mu.Lock()
	if !s.settled.Load() && len(s.sent) < maxReplayed {
		defer s.mu.Unlock()
		s.sent = append(s.sent, message)
		err := s.latest().SendMsg(message)
		if errors.Is(err, io.EOF) && s.mayMove() {
			return nil
		}
		return err
	}
	s.settled.Store(true)
	s.sent = nil
	s.mu.Unlock()
	return s.latest().SendMsg(message)
}

// CloseSend ends sending.
func (s *movableStream) CloseSend() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.latest().CloseSend()
}

// Header is that of the latest attempt.
func (s *movableStream) Header() (metadata.MD, error) { return s.latest().Header() }

// Trailer is valid after RecvMsg has returned an error.
func (s *movableStream) Trailer() metadata.MD { return s.latest().Trailer() }

// Context is that of the latest attempt.
func (s *movableStream) Context() context.Context { return s.latest().Context() }
