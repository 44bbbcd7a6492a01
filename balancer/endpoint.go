package balancer

import (
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// Endpoint is what is known of one endpoint, by all channels that share its table.
type Endpoint struct {
	attempt.Instance
	table *Table

	// What every pick touches, on a cache line of its own.
	_       [64]byte
	picked  atomic.Uint64 // attempts sent here
	ended   atomic.Uint64 // of them, those that are over
	failing failing
	latency latency
	stalled atomic.Bool // calls are under way and none ends
	suspect atomic.Bool // a success matters, too: there were failures
	_       [64]byte

	ignored atomic.Uint64 // ended attempts that tell nothing of the endpoint
	// compared is nil while no answers are compared.
	compared atomic.Pointer[compared]
	streams  atomic.Int64 // in flight, as far as they are known to be streams

	// The rest is guarded by Table.mu.

	users     int           // channels that list it
	connected int           // of them, those that have a connection
	broken    bool          // none has, and one could not make another
	left      time.Duration // when it was last left by a channel

	cold  bool          // it starts slowly when it is next ready
	slow  bool          // it has once started slowly
	owed  bool          // and has not had a call since it began
	began time.Duration // when that was, since the table was made

	reach    reach
	stall    stall
	standing standing
	ejection ejection
}

// InFlight counts the attempts that were sent here and are not over.
func (e *Endpoint) InFlight() int64 {
	ended := e.ended.Load() // first: what ends in between must not count twice
	return int64(e.picked.Load() - ended)
}

// Picks counts the attempts that were ever sent here.
func (e *Endpoint) Picks() uint64 { return e.picked.Load() }
