package concurrency

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Limiter is the concern of concurrency limits. One value may serve several servers,
// whose calls of one method then count together. It is safe for concurrent use and
// owns nothing to close.
type Limiter struct {
	trusted  func(context.Context) bool
	observer interceptors.Observer
	methods  methods
}

// New makes a limiter that has learned nothing: the limits are in the policy. The
// error names every option that is wrong.
func New(opts ...Option) (*Limiter, error) {
	l := &Limiter{
		trusted:  func(context.Context) bool { return false },
		observer: interceptors.ObserverFunc(nil),
	}
	for _, opt := range opts {
		opt(l)
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("concurrency: %w", err)
	}
	return l, nil
}

// Stage is [interceptors.Concurrency].
func (l *Limiter) Stage() interceptors.Stage { return interceptors.Concurrency }

// UnaryServer limits the handlers of one method that run at once, nil where the
// policy does not.
func (l *Limiter) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	if p := l.newPart(meta, false); p != nil {
		return p.unary
	}
	return nil
}

// StreamServer limits the streams of one method that are open at once, nil where the
// policy does not. The limit is its max, adaptive or not.
func (l *Limiter) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	if p := l.newPart(meta, true); p != nil {
		return p.stream
	}
	return nil
}

// UnaryServerInterceptor is the limiter for use alone, without a chain of concerns.
// It panics without policies.
func (l *Limiter) UnaryServerInterceptor(policies *interceptors.Policies) grpc.UnaryServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, l).UnaryServer()
}

// StreamServerInterceptor is the limiter for use alone, without a chain of concerns.
// It panics without policies.
func (l *Limiter) StreamServerInterceptor(policies *interceptors.Policies) grpc.StreamServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, l).StreamServer()
}
