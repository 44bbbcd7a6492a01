package redisconn

import (
	"cmp"
	"context"
	"math/rand/v2"
	"time"

	"github.com/redis/rueidis"
)

// probeTimeout is how long Redis has to show that it is well, a new connection included.
// Nobody waits for that.
const probeTimeout = 2 * time.Second

// keep looks for Redis while operations are turned away.
func (c *Conn) keep() {
	backoff := c.Backoff
	var lost time.Time // zero: nobody has been told that Redis is away
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
		if c.failed.Load() < MaxFailures { // it may have been one slow answer: look at once
			continue
		}
		lost = time.Now()
		c.Log.Warn("redis is away: "+c.Away, "error", *c.away.Load())
		backoff = c.Pause(backoff)
	}
}

// Pause waits for about backoff, so that processes do not come back in step, and is the
// next one.
func (c *Conn) Pause(backoff time.Duration) time.Duration {
	timer := time.NewTimer(backoff/2 + rand.N(backoff/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.context.Done():
	}
	return min(2*backoff, c.MaxBackoff)
}

// revive connects, and lets operations in again if Redis is well.
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

// look asks for a key that is not there, as a server that only answers PING may not.
func (c *Conn) look(ctx context.Context, client rueidis.Client) (done bool, err error) {
	err = client.Do(ctx, client.B().Get().Key(c.Prefix+"well").Build()).Error()
	if err != nil && !rueidis.IsRedisNil(err) {
		return false, err
	}
	c.LetIn()
	return true, nil
}

// connect makes the client once. After that it finds its way by itself.
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
