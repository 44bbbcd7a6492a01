// Package guard calls code that users give us, such as stores and observers, so that a
// panic or a call that does not return costs one call little and the others nothing.
package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"
)

const (
	// Timeout is how long a caller waits for a store.
	Timeout = time.Second
	// MaxRunning is how many calls of a store run at once; more wait for a place.
	MaxRunning = 256
	// MaxAbandoned is with how many calls that did not return in time a store is down.
	MaxAbandoned = 16
)

// ErrDown is why a store is not called: too many calls of it have not returned.
var ErrDown = errors.New("the store is down: calls of it do not return")

// Bounded is a store that bounds its calls by itself. It is called in the goroutine of
// the caller.
type Bounded interface{ Bounded() }

// Store bounds the calls of one store. It is safe for concurrent use.
type Store struct {
	log       *slog.Logger
	bounded   bool
	running   chan struct{} // a place for each call
	abandoned atomic.Int32  // calls that run although their callers have waited long enough

	panics, hangs OncePerMinute
}

// NewStore makes the bounds of store, nil without one.
func NewStore(store any, log *slog.Logger) *Store {
	if store == nil {
		return nil
	}
	_, bounded := store.(Bounded)
	return &Store{log: log, bounded: bounded, running: make(chan struct{}, MaxRunning)}
}

type answer[T any] struct {
	value T
	err   error
}

// Call has f call the store for a method. The caller waits for [Timeout] at most, and for
// no more than half of the time that it has left. A panic is an error. What f is given and
// returns must be its own: it may go on when its caller does not wait any more.
func Call[T any](ctx context.Context, s *Store, method string, f func(context.Context) (T, error)) (T, error) {
	if s.bounded {
		return Run(ctx, s, method, f)
	}
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if s.abandoned.Load() >= MaxAbandoned {
		return none, ErrDown
	}
	bounded, cancel := context.WithTimeout(ctx, patience(ctx))
	defer cancel()
	select {
	case s.running <- struct{}{}:
	case <-bounded.Done():
		return none, bounded.Err()
	}
	answers := make(chan answer[T], 1)
	var over atomic.Bool // the call has returned, or its caller waits no more
	go func() {
		defer func() {
			if over.Swap(true) {
				s.abandoned.Add(-1)
			}
			<-s.running
		}()
		value, err := Run(bounded, s, method, f)
		answers <- answer[T]{value, err}
	}()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-bounded.Done():
	}
	if ctx.Err() != nil { // who gives up says nothing about the store
		return none, ctx.Err()
	}
	s.abandoned.Add(1)
	if over.Swap(true) {
		s.abandoned.Add(-1)
	} else if s.hangs.Allow() {
		s.log.Error("a call of the store does not return in time: it is left running", "method", method, "running", len(s.running))
	}
	return none, bounded.Err()
}

// patience leaves a caller half of its time for the call itself.
func patience(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(Timeout, time.Until(deadline)/2)
	}
	return Timeout
}

// Run calls f in the goroutine of the caller, without a bound of time.
func Run[T any](ctx context.Context, s *Store, method string, f func(context.Context) (T, error)) (value T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the store has panicked: %v", p)
			if s.panics.Allow() {
				s.log.ErrorContext(ctx, "the store has panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
			}
		}
	}()
	return f(ctx)
}

// OncePerMinute limits a log line. Its zero value is ready, and it is safe for concurrent use.
type OncePerMinute struct{ at atomic.Int64 }

// Allow reports whether the line may be written now.
func (o *OncePerMinute) Allow() bool {
	now, last := time.Now().UnixNano(), o.at.Load()
	return now-last >= int64(time.Minute) && o.at.CompareAndSwap(last, now)
}
