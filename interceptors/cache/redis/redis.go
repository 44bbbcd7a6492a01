package redis

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// maxRunning is how many operations run at once. It is below the 1,024 that a connection
// of rueidis queues before it makes callers wait without looking at their deadlines.
const maxRunning = 256

// Redis keeps values in Redis. It implements cache.Store and is safe for concurrent use.
type Redis struct {
	options
	name    string
	secrets []string // not to be told in errors

	client  atomic.Pointer[rueidis.Client] // nil before the first connection
	away    atomic.Pointer[error]          // why operations are turned away; nil: they are not
	failed  atomic.Int32                   // operations in a row
	running chan struct{}                  // a place for each operation
	tripped chan struct{}                  // wakes the keeper
	back    chan struct{}                  // wakes the listener

	mu      sync.Mutex // whoever makes away nil looks at pending first
	pending pending

	listeners listeners
	counters  counters

	context context.Context
	cancel  context.CancelFunc
	owned   sync.WaitGroup // the keeper and the listener
	closing sync.Once
}

// New checks the options. It needs no Redis, which is looked for in the background until
// Close.
func New(opts ...Option) (*Redis, error) {
	o := options{timeout: defaultTimeout, prefix: defaultPrefix, maxValue: defaultMaxValue, backoff: time.Second, maxBackoff: 30 * time.Second}
	for _, opt := range opts {
		opt(&o)
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	if o.log == nil {
		o.log = slog.Default()
	}
	r := &Redis{
		options: o,
		name:    "redis",
		running: make(chan struct{}, maxRunning),
		tripped: make(chan struct{}, 1),
		back:    make(chan struct{}, 1),
	}
	if o.client != nil {
		r.client.Store(&o.client)
	} else {
		r.name = "redis at " + strings.Join(o.option.InitAddress, ", ")
		r.secrets = []string{o.option.Password, o.option.Sentinel.Password}
	}
	r.turnAway(fmt.Errorf("%s has not been reached yet", r.name))
	r.context, r.cancel = context.WithCancel(context.Background())
	r.owned.Go(r.keep)
	return r, nil
}

// Close ends the connections, and waits for the operations and calls of subscribers that
// are under way: some milliseconds, and some seconds if Redis does not answer. Operations
// then fail with [ErrAway].
func (r *Redis) Close() {
	r.closing.Do(func() {
		r.cancel()
		r.listeners.end()
		r.owned.Wait()
		r.turnAway(fmt.Errorf("%s: the store is closed", r.name))
		if client := r.client.Load(); client != nil && r.options.client == nil {
			(*client).Close()
		}
		for range maxRunning { // nobody comes in any more
			r.running <- struct{}{}
		}
	})
}
