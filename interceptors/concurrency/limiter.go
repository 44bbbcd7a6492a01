package concurrency

import (
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
)

// Limiter is the concern of concurrency limits. One value may serve several servers,
// whose calls of one method then count together. It is safe for concurrent use and
// owns nothing to close.
type Limiter struct {
	callers   *caller.Callers
	observer  interceptors.Observer
	publisher *interceptors.Publisher // of observer
	methods   methods
}

// New makes a limiter without state: the limits are in the policy. The error names the
// option that is wrong.
func New(opts ...Option) (*Limiter, error) {
	l := &Limiter{observer: interceptors.ObserverFunc(nil), methods: newMethods()}
	for _, opt := range opts {
		opt(l)
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("concurrency: %w", err)
	}
	l.publisher = interceptors.NewPublisher(l.observer)
	return l, nil
}

// Stage is [interceptors.Concurrency].
func (l *Limiter) Stage() interceptors.Stage { return interceptors.Concurrency }

// UnaryServer limits the handlers of one method that run at once, nil where the
// policy does not.
func (l *Limiter) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	if m := newMethodLimit(l, meta, false); m != nil {
		return m.unary
	}
	return nil
}

// StreamServer limits the streams of one method that are open at once, nil where the
// policy does not. The limit is its max, adaptive or not.
func (l *Limiter) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	if m := newMethodLimit(l, meta, true); m != nil {
		return m.stream
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

// Option changes what [New] makes.
type Option func(*Limiter)

// WithCallers sets which callers are trusted to choose the priority of their calls. Default:
// none.
func WithCallers(callers *caller.Callers) Option {
	return func(l *Limiter) { l.callers = callers }
}

// WithObserver sets what receives the [Result] of each call of a method that has a limit,
// such as a value of package interceptors/metrics.
func WithObserver(observer interceptors.Observer) Option {
	return func(l *Limiter) { l.observer = observer }
}

func (l *Limiter) check() error {
	if l.observer == nil {
		return errors.New("WithObserver(nil): leave the option out for no observer")
	}
	return nil
}
