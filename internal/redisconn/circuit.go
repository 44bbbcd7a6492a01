package redisconn

import (
	"cmp"
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

// MaxFailures is how many operations in a row fail before the circuit opens.
const MaxFailures = 5

type answer[T any] struct {
	value T
	err   error
}

// Call runs f in its own goroutine. However long the client takes, the caller waits for the
// timeout at most, and for no more than half of the time until its deadline.
func Call[T any](ctx context.Context, c *Conn, f func(context.Context, rueidis.Client) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if err := c.TurnedAway(); err != nil {
		return none, err
	}
	timeout := c.timeout(ctx)
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case c.running <- struct{}{}:
	case <-bounded.Done():
		return none, c.judge(ctx, timeout, bounded.Err())
	}
	if err := c.TurnedAway(); err != nil { // earlier operations have opened the circuit
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
		return a.value, c.judge(ctx, timeout, a.err)
	case <-bounded.Done():
		return none, c.judge(ctx, timeout, bounded.Err())
	}
}

// timeout leaves a caller half of its time for the call itself.
func (c *Conn) timeout(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(c.Timeout, time.Until(deadline)/2)
	}
	return c.Timeout
}

// judge counts the result of an operation. A caller that cancels, or had hardly any time,
// says nothing about Redis: otherwise callers could open the circuit at will.
func (c *Conn) judge(ctx context.Context, timeout time.Duration, err error) error {
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
	tooShort := errors.Is(err, context.DeadlineExceeded) && timeout < c.Timeout/5
	if err = c.Explain(err); tooShort {
		return err
	}
	if c.failed.Add(1) >= MaxFailures {
		c.Trip(err)
	}
	return err
}

// TurnedAway is why an operation fails at once, nil if it does not.
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

// Trip opens the circuit. The keeper closes it again.
func (c *Conn) Trip(cause error) {
	err := fmt.Errorf("%w: %w", ErrAway, cause)
	if c.away.CompareAndSwap(nil, &err) {
		wake(c.tripped)
	}
}

// LetIn closes the circuit: operations are tried again.
func (c *Conn) LetIn() { c.away.Store(nil) }

// probeTimeout bounds a probe in the background, a new connection included.
const probeTimeout = 2 * time.Second

// keep is the keeper: it probes Redis while the circuit is open.
func (c *Conn) keep() {
	backoff := c.Backoff
	var lost time.Time // zero: it is not logged that Redis is away
	for c.context.Err() == nil {
		if err := c.revive(); err != nil {
			if lost.IsZero() && c.context.Err() == nil {
				lost = time.Now()
				c.Log.Warn("redis is away: "+c.Away, "error", err)
			}
			backoff = c.Pause(backoff)
			continue
		}
		well := time.Now()
		if !lost.IsZero() {
			c.Log.Info(c.name+" is back", "after", well.Sub(lost).Round(time.Millisecond))
			lost = time.Time{}
		}
		select {
		case <-c.tripped:
		case <-c.context.Done():
			return
		}
		if time.Since(well) > c.MaxBackoff {
			backoff = c.Backoff
		}
		if c.failed.Load() < MaxFailures { // it may have been one slow answer: probe at once
			continue
		}
		lost = time.Now()
		c.Log.Warn("redis is away: "+c.Away, "error", *c.away.Load())
		backoff = c.Pause(backoff)
	}
}

// Pause waits for about backoff, with jitter so that processes do not come back in step,
// and returns the next backoff.
func (c *Conn) Pause(backoff time.Duration) time.Duration {
	timer := time.NewTimer(backoff/2 + rand.N(backoff/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.context.Done():
	}
	return min(2*backoff, c.MaxBackoff)
}

// revive connects, and closes the circuit if the probe succeeds.
func (c *Conn) revive() error {
	client, err := c.connect()
	for err == nil {
		var done bool
		if done, err = c.probe(client); done {
			c.failed.Store(0)
			wake(c.back)
			return nil
		}
	}
	err = c.Explain(err)
	c.turnAway(err)
	return err
}

func (c *Conn) probe(client rueidis.Client) (done bool, err error) {
	ctx, cancel := context.WithTimeout(c.context, probeTimeout)
	defer cancel()
	return c.Probe(ctx, client)
}

// look is the default probe. It gets a key that is not there: a server may answer PING and
// nothing else.
func (c *Conn) look(ctx context.Context, client rueidis.Client) (done bool, err error) {
	err = client.Do(ctx, client.B().Get().Key(c.Prefix+"well").Build()).Error()
	if err != nil && !rueidis.IsRedisNil(err) {
		return false, err
	}
	c.LetIn()
	return true, nil
}

// connect makes the client once. After that the client reconnects by itself.
func (c *Conn) connect() (rueidis.Client, error) {
	if client := c.client.Load(); client != nil {
		return *client, nil
	}
	client, err := rueidis.NewClient(guarded(filled(*c.Option), cmp.Or(c.MaxReply, defaultMaxReply)))
	if err != nil {
		if client != nil {
			client.Close()
		}
		return nil, err
	}
	c.client.Store(&client)
	return client, nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
