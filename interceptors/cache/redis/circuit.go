package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/redis/rueidis"
)

// ErrAway is why an operation was not tried: Redis has failed several in a row, has not
// been reached yet, or the store is closed. The error that wraps it says which.
var ErrAway = errors.New("redis is left alone until it is well again")

// maxFailures is how many operations in a row fail before all are turned away.
const maxFailures = 5

// probeTimeout is how long Redis has to show that it is well, a new connection included.
// Nobody waits for that.
const probeTimeout = 2 * time.Second

type answer[T any] struct {
	value T
	err   error
}

// call has f ask Redis, in its own goroutine: however long the client takes, the caller
// waits for the timeout at most.
func call[T any](ctx context.Context, r *Redis, f func(context.Context, rueidis.Client) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if err := r.turnedAway(); err != nil {
		return none, err
	}
	bounded, cancel := context.WithTimeout(ctx, r.patience(ctx))
	defer cancel()
	select {
	case r.running <- struct{}{}:
	case <-bounded.Done():
		return none, r.judge(ctx, bounded.Err())
	}
	if err := r.turnedAway(); err != nil { // those before have found out
		<-r.running
		return none, err
	}
	answers := make(chan answer[T], 1)
	go func() {
		defer func() { <-r.running }()
		value, err := f(bounded, *r.client.Load())
		answers <- answer[T]{value, err}
	}()
	select {
	case a := <-answers:
		return a.value, r.judge(ctx, a.err)
	case <-bounded.Done():
		return none, r.judge(ctx, bounded.Err())
	}
}

// patience leaves a caller half of its time for the call that the cache might have saved.
func (r *Redis) patience(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(r.timeout, time.Until(deadline)/2)
	}
	return r.timeout
}

// judge counts what came of an operation. Whoever gives up says nothing about Redis.
func (r *Redis) judge(ctx context.Context, err error) error {
	switch {
	case err == nil:
		if r.failed.Load() != 0 {
			r.failed.Store(0)
		}
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	r.counters.errors.Add(1)
	err = r.explain(err)
	if r.failed.Add(1) >= maxFailures {
		r.trip(err)
	}
	return err
}

// turnedAway is why an operation is not to be tried.
func (r *Redis) turnedAway() error {
	if err := r.away.Load(); err != nil {
		r.counters.refused.Add(1)
		return *err
	}
	return nil
}

func (r *Redis) turnAway(cause error) {
	err := fmt.Errorf("%w: %w", ErrAway, cause)
	r.away.Store(&err)
}

// trip turns operations away from now on and leaves the rest to the keeper.
func (r *Redis) trip(cause error) {
	err := fmt.Errorf("%w: %w", ErrAway, cause)
	if r.away.CompareAndSwap(nil, &err) {
		wake(r.tripped)
	}
}

// keep looks for Redis while operations are turned away.
func (r *Redis) keep() {
	backoff := r.backoff
	var lost time.Time // zero: nobody has been told that Redis is away
	for r.context.Err() == nil {
		if err := r.revive(); err != nil {
			if lost.IsZero() && r.context.Err() == nil {
				lost = time.Now()
				r.log.Warn("redis is away: answers are kept in each process only", "error", err)
			}
			backoff = r.pause(backoff)
			continue
		}
		well := time.Now()
		if !lost.IsZero() {
			r.log.Info(r.name+" is back", "after", well.Sub(lost).Round(time.Millisecond))
			lost = time.Time{}
		}
		select {
		case <-r.tripped:
		case <-r.context.Done():
			return
		}
		if time.Since(well) > r.maxBackoff {
			backoff = r.backoff
		}
		if r.failed.Load() < maxFailures { // it may have been one slow answer: look at once
			continue
		}
		lost = time.Now()
		r.log.Warn("redis is away: answers are kept in each process only", "error", *r.away.Load())
		backoff = r.pause(backoff)
	}
}

// pause waits for about backoff, so that processes do not come back in step, and is the
// next one.
func (r *Redis) pause(backoff time.Duration) time.Duration {
	timer := time.NewTimer(backoff/2 + rand.N(backoff/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.context.Done():
	}
	return min(2*backoff, r.maxBackoff)
}

// revive connects, tells what is pending and lets operations in again.
func (r *Redis) revive() error {
	client, err := r.connect()
	for err == nil {
		var done bool
		if done, err = r.settle(client); done {
			r.failed.Store(0)
			wake(r.back)
			return nil
		}
	}
	err = r.explain(err)
	r.turnAway(err)
	return err
}

// settle tells what is pending, and is done when nothing has come to it meanwhile.
func (r *Redis) settle(client rueidis.Client) (done bool, err error) {
	ctx, cancel := context.WithTimeout(r.context, probeTimeout)
	defer cancel()
	r.mu.Lock()
	some, subjects, changes := r.pending.some(), r.pending.list(), r.pending.changes
	r.mu.Unlock()
	if some {
		err = r.tell(ctx, client, subjects)
	} else {
		err = client.Do(ctx, client.B().Get().Key(r.generation(everything)).Build()).Error()
	}
	if err != nil && !rueidis.IsRedisNil(err) {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending.changes != changes {
		return false, nil
	}
	r.pending = pending{changes: changes}
	r.away.Store(nil)
	return true, nil
}

// connect makes the client once. After that it finds its way by itself.
func (r *Redis) connect() (rueidis.Client, error) {
	if client := r.client.Load(); client != nil {
		return *client, nil
	}
	client, err := rueidis.NewClient(forCache(*r.option))
	if err != nil {
		if client != nil {
			client.Close()
		}
		return nil, err
	}
	r.client.Store(&client)
	return client, nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
