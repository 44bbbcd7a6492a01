package consul

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// An agent takes 200 connections from one address, which the processes of a
// machine share, and each blocking query holds one.
// https://developer.hashicorp.com/consul/docs/agent/config/config-files#http_max_conns_per_client
const (
	maxConnections = 62 // and some that are just being closed
	maxBlocking    = 60 // the others are for what does not block
	turn           = time.Second
)

// crowd lets the watches of one agent share its connections. As many as there are
// places wait for a change as long as they like; more of them take turns, and each
// is back after a second for each 60 of them. No change is lost between two turns,
// since each knows its index.
type crowd struct {
	places *semaphore.Weighted // first come, first served

	mu     sync.Mutex
	open   int             // watches
	calm   context.Context // ends when there are more than places
	unrest context.CancelFunc
}

func newCrowd() *crowd {
	c := &crowd{places: semaphore.NewWeighted(maxBlocking)}
	c.calm, c.unrest = context.WithCancel(context.Background())
	return c
}

// join counts a watch in.
func (c *crowd) join() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	if c.open > maxBlocking {
		c.unrest()
	}
}

// leave counts a watch out and says whether it was the last.
func (c *crowd) leave() (last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
	if c.open <= maxBlocking && c.calm.Err() != nil {
		c.calm, c.unrest = context.WithCancel(context.Background())
	}
	return c.open == 0
}

// enter waits for a place, and says for how long a query may block there, which
// is wait as long as all watches have places. ctx then ends early, by errCrowded,
// when they no longer have. Call leave when the query has ended.
func (c *crowd) enter(ctx context.Context, wait time.Duration) (_ context.Context, _ time.Duration, leave func(), err error) {
	if err := c.places.Acquire(ctx, 1); err != nil {
		return nil, 0, nil, err
	}
	c.mu.Lock()
	calm := c.calm
	c.mu.Unlock()
	if calm.Err() != nil {
		return ctx, min(wait, turn), func() { c.places.Release(1) }, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(calm, func() {
		pause(ctx, rand.N(turn)) // a query that ends early takes its connection with it: not all at once
		cancel(errCrowded)
	})
	return ctx, wait, func() { stop(); cancel(nil); c.places.Release(1) }, nil
}

func (c *crowd) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}
