package redisconn

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/redis/rueidis"
)

// MaxRunning is how many operations run at once. It is below the 1,024 that a connection
// of rueidis queues before it makes callers wait without looking at their deadlines.
const MaxRunning = 256

// Config is what a user of the package needs of it.
type Config struct {
	Options // checked
	// Away says in the log what becomes of the program meanwhile: "answers are kept in
	// each process only".
	Away string
	// Commands are what its user must be allowed: "GET and SET on the keys of the prefix".
	Commands string
	// Eviction is the maxmemory-policy that suits what is kept: "allkeys-lru".
	Eviction string
	// MaxReply is the most bytes of one reply, of a connection that is ours; 0 is 4 MiB.
	MaxReply int64
	// Probe checks that Redis works, and calls [Conn.LetIn] before it returns done. It is
	// called again while it returns neither done nor an error. By default it gets a key.
	Probe func(context.Context, rueidis.Client) (done bool, err error)
}

// Conn is a guarded connection to Redis. It is safe for concurrent use.
type Conn struct {
	Config
	name    string
	secrets []string // redacted from errors

	client  atomic.Pointer[rueidis.Client] // nil before the first connection
	away    atomic.Pointer[error]          // why operations are turned away; nil: they are not
	failed  atomic.Int32                   // operations in a row
	running chan struct{}                  // a slot for each operation
	tripped chan struct{}                  // wakes the keeper
	back    chan struct{}                  // receives when Redis is back

	errors, refused atomic.Uint64

	context context.Context
	cancel  context.CancelFunc
	owned   sync.WaitGroup // the keeper and what Go runs
	closing sync.Once
}

// New makes a Conn whose circuit is open until Start.
func New(config Config) *Conn {
	c := &Conn{
		Config:  config,
		name:    "redis",
		running: make(chan struct{}, MaxRunning),
		tripped: make(chan struct{}, 1),
		back:    make(chan struct{}, 1),
	}
	if c.Options.Client != nil {
		c.client.Store(&c.Options.Client)
	} else {
		c.name = "redis at " + strings.Join(c.Option.InitAddress, ", ")
		c.secrets = []string{c.Option.Password, c.Option.Sentinel.Password}
	}
	if c.Probe == nil {
		c.Probe = c.look
	}
	c.turnAway(fmt.Errorf("%s has not been reached yet", c.name))
	c.context, c.cancel = context.WithCancel(context.Background())
	return c
}

// Start looks for Redis in the background until Close.
func (c *Conn) Start() { c.owned.Go(c.keep) }

// Close ends the connections, and waits for the operations that are under way and for
// what [Conn.Go] runs: some milliseconds, and some seconds if Redis does not answer.
// Operations then fail with [ErrAway].
func (c *Conn) Close() {
	c.closing.Do(func() {
		c.cancel()
		c.owned.Wait()
		c.turnAway(fmt.Errorf("%s: the store is closed", c.name))
		if client := c.client.Load(); client != nil && c.Options.Client == nil {
			(*client).Close()
		}
		for range MaxRunning { // the circuit stays open
			c.running <- struct{}{}
		}
	})
}

// Go runs f, which ends soon after [Conn.Context] does. Close waits for it.
func (c *Conn) Go(f func()) { c.owned.Go(f) }

// Context ends with Close.
func (c *Conn) Context() context.Context { return c.context }

// Client is the client, once there was a connection.
func (c *Conn) Client() rueidis.Client { return *c.client.Load() }

// Connected reports whether operations go through; false: the circuit is open.
func (c *Conn) Connected() bool { return c.away.Load() == nil }

// Back notifies one reader that Redis is back.
func (c *Conn) Back() <-chan struct{} { return c.back }

// Errors are the operations that Redis has failed, or not answered in time.
func (c *Conn) Errors() uint64 { return c.errors.Load() }

// Refused are the operations that were turned away with [ErrAway].
func (c *Conn) Refused() uint64 { return c.refused.Load() }
