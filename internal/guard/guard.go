// Package guard calls code that users give us, such as stores and directories, so that a
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

var errSlow = errors.New("the store is slow")

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
	bounded, cancel := context.WithTimeoutCause(ctx, patience(ctx), errSlow)
	defer cancel()
	select {
	case s.running <- struct{}{}:
	case <-bounded.Done():
		return none, bounded.Err()
	}
	slow := func() bool { return context.Cause(bounded) == errSlow } // who gives up says nothing about the store
	value, err := Until(bounded.Done(), func() (T, error) {
		defer func() { <-s.running }()
		return Run(bounded, s, method, f)
	}, func(T, error) {
		if slow() {
			s.abandoned.Add(-1)
		}
	})
	if !errors.Is(err, ErrLeft) {
		return value, err
	}
	if slow() {
		s.abandoned.Add(1)
		if s.hangs.Allow() {
			s.log.Error("a call of the store does not return in time: it is left running", "method", method, "running", len(s.running))
		}
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
func Run[T any](ctx context.Context, s *Store, method string, f func(context.Context) (T, error)) (T, error) {
	value, err := recovered(func() (T, error) { return f(ctx) })
	if p, ok := err.(*Panic); ok {
		if s.panics.Allow() {
			s.log.ErrorContext(ctx, "the store has panicked", "method", method, "panic", p.Value, "stack", p.Stack)
		}
		return value, fmt.Errorf("the store %w", p)
	}
	return value, err
}

// ErrLeft is the error of a function that [Until] has left running.
var ErrLeft = errors.New("does not end: it is left running")

// Panic is the error of a function that has panicked.
type Panic struct {
	Value any
	Stack string
}

// Error has the value, not the stack.
func (p *Panic) Error() string { return fmt.Sprintf("has panicked: %v", p.Value) }

// Until runs f in a goroutine and returns its result, or [ErrLeft] when done is closed
// before. Then late receives the result, in that goroutine, whenever f returns. A panic of f
// is a [*Panic].
func Until[T any](done <-chan struct{}, f func() (T, error), late func(T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	results, left := make(chan result), make(chan struct{})
	go func() {
		var r result
		r.value, r.err = recovered(f)
		select {
		case results <- r:
		case <-left:
			late(r.value, r.err)
		}
	}()
	select {
	case r := <-results:
		return r.value, r.err
	case <-done:
		close(left)
		var none T
		return none, ErrLeft
	}
}

// Within is [Until] for a function without a result that may take d.
func Within(d time.Duration, f func(), late func(error)) error {
	over, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	_, err := Until(over.Done(), func() (struct{}, error) { f(); return struct{}{}, nil }, func(_ struct{}, err error) { late(err) })
	return err
}

func recovered[T any](f func() (T, error)) (value T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &Panic{p, string(debug.Stack())}
		}
	}()
	return f()
}

// OncePerMinute limits a log line. Its zero value is ready, and it is safe for concurrent use.
type OncePerMinute struct{ at atomic.Int64 }

// Allow reports whether the line may be written now.
func (o *OncePerMinute) Allow() bool {
	now, last := time.Now().UnixNano(), o.at.Load()
	return now-last >= int64(time.Minute) && o.at.CompareAndSwap(last, now)
}
