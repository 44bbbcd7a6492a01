package redis

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

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

	mu      sync.Mutex // of pending, which must be empty before operations are let in
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

// settle publishes what is pending, and is done when nothing was added meanwhile.
func (r *Redis) settle(ctx context.Context, client rueidis.Client) (done bool, err error) {
	r.mu.Lock()
	some, subjects, changes := r.pending.some(), r.pending.list(), r.pending.changes
	r.mu.Unlock()
	if some {
		err = r.publish(ctx, client, subjects)
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

// Stats are the figures of a store since it was made.
type Stats struct {
	Loads         uint64 `json:"loads"`
	Hits          uint64 `json:"hits"`
	Saves         uint64 `json:"saves"`
	Invalidations uint64 `json:"invalidations"`

	Errors  uint64 `json:"errors"`  // operations that Redis has failed, or not answered in time
	Refused uint64 `json:"refused"` // operations that failed at once with ErrAway
	Pending int    `json:"pending"` // subjects to be published when Redis is back; -1 is everything

	Connected         bool   `json:"connected"`          // whether operations go through; false: the circuit is open
	Subscribed        bool   `json:"subscribed"`         // whether invalidations by others arrive
	LostSubscriptions uint64 `json:"lost_subscriptions"` // how often that has ended
}

type counters struct {
	loads, hits, saves, invalidations, lost atomic.Uint64
	subscribed                              atomic.Bool
}

// Stats reads the figures. They are taken one after the other, not at one moment.
func (r *Redis) Stats() Stats {
	r.mu.Lock()
	owed := len(r.pending.subjects)
	if r.pending.all {
		owed = -1
	}
	r.mu.Unlock()
	return Stats{
		Loads:             r.counters.loads.Load(),
		Hits:              r.counters.hits.Load(),
		Saves:             r.counters.saves.Load(),
		Invalidations:     r.counters.invalidations.Load(),
		Errors:            r.conn.Errors(),
		Refused:           r.conn.Refused(),
		Pending:           owed,
		Connected:         r.conn.Connected(),
		Subscribed:        r.counters.subscribed.Load(),
		LostSubscriptions: r.counters.lost.Load(),
	}
}
