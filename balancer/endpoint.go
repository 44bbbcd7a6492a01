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
	alert   atomic.Bool // a success matters, too: there were failures
	_       [64]byte

	ignored atomic.Uint64 // ended attempts that tell nothing of the endpoint

	// The rest is guarded by Table.mu.

	users int           // channels that list it
	left  time.Duration // when it was last left by one
	seen  uint64        // what ended was at the last checkup
	moved time.Duration // when it was another number last
	cold  bool          // it starts slowly when it is next ready
	slow  bool          // it is in slow start
	owed  bool          // and has not had a call since it began
	began time.Duration // when that was, since the table was made
	warm  float64       // how much of it is over

	ejection ejection
	shown    shown // as of the newest view
}

// InFlight counts the attempts that were sent here and are not over.
func (e *Endpoint) InFlight() int64 {
	ended := e.ended.Load() // first: what ends in between must not count twice
	return int64(e.picked.Load() - ended)
}

// Picks counts the attempts that were ever sent here.
func (e *Endpoint) Picks() uint64 { return e.picked.Load() }
