package authz

import (
	"context"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/internal/guard"
)

// revokeGrace is how long the handler of a stream that is denied now has to return, before
// the stream ends without it.
const revokeGrace = 250 * time.Millisecond

// streams are those that are open.
type streams struct {
	mu   sync.Mutex
	open map[*openStream]struct{}
}

func (s *streams) add(one *openStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*openStream]struct{}{}
	}
	s.open[one] = struct{}{}
}

func (s *streams) remove(one *openStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, one)
}

func (s *streams) all() []*openStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*openStream, 0, len(s.open))
	for one := range s.open {
		all = append(all, one)
	}
	return all
}

func (s *streams) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// openStream is a server's stream, with a context that can be revoked.
type openStream struct {
	grpc.ServerStream
	method     *method
	fullMethod string
	ctx        context.Context
	cancel     context.CancelCauseFunc
	revoked    chan struct{}
	once       sync.Once
}

// Context ends when the stream is revoked.
func (s *openStream) Context() context.Context { return s.ctx }

// SendMsg fails on a stream that is revoked.
func (s *openStream) SendMsg(message any) error {
	if s.isRevoked() {
		return errDenied
	}
	return s.ServerStream.SendMsg(message)
}

// RecvMsg fails on a stream that is revoked.
func (s *openStream) RecvMsg(message any) error {
	if s.isRevoked() {
		return errDenied
	}
	err := s.ServerStream.RecvMsg(message)
	if err != nil && s.isRevoked() {
		return errDenied
	}
	return err
}

func (s *openStream) isRevoked() bool {
	select {
	case <-s.revoked:
		return true
	default:
		return false
	}
}

func (s *openStream) revoke() {
	s.once.Do(func() {
		s.cancel(errDenied)
		close(s.revoked)
	})
}

// changed is closed when the policy of the method may have changed. Watchers recheck by
// themselves.
func (s *openStream) changed() <-chan struct{} {
	if s.method.authorizer.policy {
		return s.method.meta.Changed()
	}
	return nil
}

func (s *openStream) recheck() {
	if s.method.open() {
		return
	}
	principal, decision := s.method.decide(s.ctx, s.fullMethod)
	if decision.Allowed || s.isRevoked() {
		return
	}
	s.revoke()
	s.method.publish(s.ctx, s.fullMethod, principal, decision)
	s.method.authorizer.counts.revoked.Add(1)
	s.method.denied(s.ctx, s.fullMethod, principal, decision, "an open stream is denied from now on")
}

// stream runs the handler in a goroutine of its own: gRPC ends a stream when the interceptor
// returns, which is the only way to end one whose handler waits for a message.
func (m *method) stream(srv any, stream grpc.ServerStream, fullMethod string, handler grpc.StreamHandler) error {
	if err := m.admit(stream.Context(), fullMethod); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	s := &openStream{ServerStream: stream, method: m, fullMethod: fullMethod, ctx: ctx, cancel: cancel, revoked: make(chan struct{})}
	m.authorizer.streams.add(s)
	defer m.authorizer.streams.remove(s)
	s.recheck() // intentions may have changed before it was among the open ones
	running := run(func() error { return handler(srv, s) })
	for !s.isRevoked() {
		select {
		case <-running.ended:
			return running.result()
		case <-s.revoked:
		case <-s.changed():
			s.method = m.authorizer.methodOf(s.method.meta.Latest())
			s.recheck()
		}
	}
	timer := time.NewTimer(revokeGrace)
	defer timer.Stop()
	select {
	case <-running.ended:
		_ = running.result() // a panic, or runtime.Goexit, goes on
	case <-timer.C:
		m.authorizer.log.LogAttrs(ctx, slog.LevelWarn, "the handler of a stream that is denied now still runs", slog.String("service", m.authorizer.destination), slog.String("method", cut(fullMethod)))
		go running.late(ctx, m, fullMethod)
	}
	return errDenied
}

// handling is a handler that runs in a goroutine.
type handling struct {
	ended    chan struct{}
	err      error
	panicked *guard.Panic
	returned bool // not by a panic or runtime.Goexit
}

func run(handler func() error) *handling {
	h := &handling{ended: make(chan struct{})}
	go func() {
		defer close(h.ended)
		defer func() {
			if !h.returned {
				if value := recover(); value != nil {
					h.panicked = &guard.Panic{Value: value, Stack: string(debug.Stack())}
				}
			}
		}()
		h.err = handler()
		h.returned = true
	}()
	return h
}

// result goes on as the handler did.
func (h *handling) result() error {
	switch {
	case h.panicked != nil:
		panic(h.panicked)
	case !h.returned:
		runtime.Goexit()
	}
	return h.err
}

// late waits for a handler whose stream has ended, and logs its panic.
func (h *handling) late(ctx context.Context, m *method, fullMethod string) {
	<-h.ended
	if h.panicked != nil {
		m.authorizer.log.ErrorContext(ctx, "the handler of a stream that was denied has panicked", "method", cut(fullMethod), "panic", h.panicked.Value, "stack", h.panicked.Stack)
	}
}

// counts of calls and streams.
type counts struct {
	allowed, byRule, byDefault, unidentified, neverRead, revoked atomicCount
}

func (c *counts) deny(decision *intention.Decision) {
	switch {
	case decision == neverRead:
		c.neverRead.Add(1)
	case decision == anonymous, decision == noService, decision == foreignDomain:
		c.unidentified.Add(1)
	case decision.Rule == "default":
		c.byDefault.Add(1)
	default:
		c.byRule.Add(1)
	}
}
