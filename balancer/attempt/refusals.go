package attempt

import (
	"sync/atomic"
	"time"
)

// Avoid names the instances that an attempt is not sent to, because they have refused
// such calls and said until when.
type Avoid struct {
	// Held is for how long an instance is to be passed over, 0 for one that may be
	// picked. Pickers may ask it of any instance, in any order.
	Held func(*Instance) time.Duration
	// All is the error of an attempt for which every instance is to be passed over, the
	// shortest of them for that time. Pickers fail the pick with it.
	All func(shortest time.Duration) error
}

// Refusals counts the calls that an instance has refused with the time when to come
// again. It is safe for concurrent use.
type Refusals struct{ count, term atomic.Uint64 }

// Refused counts one. Interceptors that obey refusals call it.
func (i *Instance) Refused() {
	if i.Refusals != nil {
		i.Refusals.count.Add(1)
	}
}

// Count is how many there were.
func (r *Refusals) Count() uint64 { return r.count.Load() }

// Lapse ends what the instance has asked for: it has left its service, or was
// perhaps started anew.
func (r *Refusals) Lapse() { r.term.Add(1) }

// Term numbers the times between lapses: what an instance has asked for holds in the
// term in which it has asked. It is 0 where nobody counts.
func (i *Instance) Term() uint64 {
	if i.Refusals == nil {
		return 0
	}
	return i.Refusals.term.Load()
}
