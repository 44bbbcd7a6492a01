package redis

import (
	"fmt"
	"sync/atomic"

	"github.com/meshlite-go/meshlite/internal/redisconn"
)

// ErrAway is why an operation was not tried: Redis has failed several in a row, has not
// been reached yet, or the store is closed. The error that wraps it says which.
var ErrAway = redisconn.ErrAway

// Redis counts in Redis. It implements ratelimit.Store and is safe for concurrent use.
type Redis struct {
	conn *redisconn.Conn

	asked, given atomic.Uint64
}

// New checks the options. It connects to Redis in the background, until Close.
func New(opts ...Option) (*Redis, error) {
	o := options{redisconn.Defaults(defaultPrefix)}
	for _, opt := range opts {
		opt(&o)
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	r := &Redis{conn: redisconn.New(redisconn.Config{
		Options:  o.Options,
		Away:     "external rate limits do what their on_store_failure says",
		Commands: "GET, SET, DEL, TIME, EVAL and EVALSHA on the keys of the prefix",
		Eviction: "volatile-ttl, or give it more memory",
	})}
	r.conn.Start()
	return r, nil
}

// Bounded marks that WithTimeout bounds every operation.
func (*Redis) Bounded() {}

// Close ends the connections, and waits for the operations that are under way: some
// milliseconds, and some seconds if Redis does not answer. Operations then fail with
// [ErrAway].
func (r *Redis) Close() { r.conn.Close() }

// Stats are the figures of a store since it was made.
type Stats struct {
	Asked uint64 `json:"asked"` // charges decided
	Given uint64 `json:"given"` // charges refunded

	Errors  uint64 `json:"errors"`  // operations that Redis has failed, or not answered in time
	Refused uint64 `json:"refused"` // operations that failed with ErrAway at once

	Connected bool `json:"connected"` // whether operations go through; false: the circuit is open
}

// Stats reads the figures. They are taken one after the other, not at one moment.
func (r *Redis) Stats() Stats {
	return Stats{
		Asked: r.asked.Load(), Given: r.given.Load(),
		Errors: r.conn.Errors(), Refused: r.conn.Refused(), Connected: r.conn.Connected(),
	}
}
