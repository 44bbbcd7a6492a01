package redisconn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/rueidis"
)

// ErrAway is why an operation was not tried: Redis has failed several in a row, has not
// been reached yet, or the store is closed. The error that wraps it says which.
var ErrAway = errors.New("redis is left alone until it is well again")

// MaxFailures is how many operations in a row fail before all are turned away.
const MaxFailures = 5

type answer[T any] struct {
	value T
	err   error
}

// Call has f ask Redis, in its own goroutine: however long the client takes, the caller
// waits for the timeout at most, and for no more than half of the time that it has left.
func Call[T any](ctx context.Context, c *Conn, f func(context.Context, rueidis.Client) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if err := c.TurnedAway(); err != nil {
		return none, err
	}
	patience := c.patience(ctx)
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case c.running <- struct{}{}:
	case <-bounded.Done():
		return none, c.judge(ctx, patience, bounded.Err())
	}
	if err := c.TurnedAway(); err != nil { // those before have found out
		<-c.running
		return none, err
	}
	answers := make(chan answer[T], 1)
	go func() {
		defer func() { <-c.running }()
		value, err := f(bounded, c.Client())
		answers <- answer[T]{value, err}
	}()
	select {
	case a := <-answers:
		return a.value, c.judge(ctx, patience, a.err)
	case <-bounded.Done():
		return none, c.judge(ctx, patience, bounded.Err())
	}
}

// patience leaves a caller half of its time for the call itself.
func (c *Conn) patience(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(c.Timeout, time.Until(deadline)/2)
	}
	return c.Timeout
}

// judge counts what came of an operation. Whoever gives up says nothing about Redis, nor
// does who had no time to begin with: else callers could open the circuit at will.
func (c *Conn) judge(ctx context.Context, patience time.Duration, err error) error {
	switch {
	case err == nil:
		if c.failed.Load() != 0 {
			c.failed.Store(0)
		}
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	c.errors.Add(1)
	hasty := errors.Is(err, context.DeadlineExceeded) && patience < c.Timeout/5
	if err = c.Explain(err); hasty {
		return err
	}
	if c.failed.Add(1) >= MaxFailures {
		c.Trip(err)
	}
	return err
}

// TurnedAway is why an operation is not to be tried; nil: it is.
func (c *Conn) TurnedAway() error {
	if err := c.away.Load(); err != nil {
		c.refused.Add(1)
		return *err
	}
	return nil
}

func (c *Conn) turnAway(cause error) {
	err := fmt.Errorf("%w: %w", ErrAway, cause)
	c.away.Store(&err)
}

// Trip turns operations away from now on and leaves the rest to the keeper.
func (c *Conn) Trip(cause error) {
	err := fmt.Errorf("%w: %w", ErrAway, cause)
	if c.away.CompareAndSwap(nil, &err) {
		wake(c.tripped)
	}
}

// LetIn lets operations through again.
func (c *Conn) LetIn() { c.away.Store(nil) }
