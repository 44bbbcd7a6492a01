package redis

import (
	"context"
	"fmt"
	"sync"

	"github.com/redis/rueidis"

	"github.com/meshlite-go/meshlite/internal/redisconn"
)

// ErrAway is why an operation was not tried: Redis has failed several in a row, has not
// been reached yet, or the store is closed. The error that wraps it says which.
var ErrAway = redisconn.ErrAway

// Redis keeps values in Redis. It implements cache.Store and is safe for concurrent use.
type Redis struct {
	maxValue int
	conn     *redisconn.Conn

	mu      sync.Mutex // whoever lets operations in looks at pending first
	pending pending

	listeners listeners
	counters  counters
}

// New checks the options. It needs no Redis, which is looked for in the background until
// Close.
func New(opts ...Option) (*Redis, error) {
	o := options{Options: redisconn.Defaults(defaultPrefix), maxValue: defaultMaxValue}
	for _, opt := range opts {
		opt(&o)
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	r := &Redis{maxValue: o.maxValue}
	r.conn = redisconn.New(redisconn.Config{
		Options:  o.Options,
		Away:     "answers are kept in each process only",
		Commands: "GET, GETRANGE, SET, EXPIRE, PUBLISH and SUBSCRIBE on the keys and the channel of the prefix",
		Eviction: "allkeys-lru",
		MaxReply: int64(o.maxValue) + 4<<20,
		Probe:    r.settle,
	})
	r.conn.Start()
	return r, nil
}

// Bounded marks that WithTimeout bounds every operation.
func (*Redis) Bounded() {}

// Close ends the connections, and waits for the operations and calls of subscribers that
// are under way: some milliseconds, and some seconds if Redis does not answer. Operations
// then fail with [ErrAway].
func (r *Redis) Close() {
	r.listeners.end()
	r.conn.Close()
}

// settle tells what is pending, and is done when nothing has come to it meanwhile.
func (r *Redis) settle(ctx context.Context, client rueidis.Client) (done bool, err error) {
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
	r.conn.LetIn()
	return true, nil
}
