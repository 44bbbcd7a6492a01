package redis

import "sync/atomic"

// Stats are the figures of a store since it was made.
type Stats struct {
	Loads, Hits, Saves, Invalidations uint64

	Errors  uint64 // operations that Redis has failed, or not answered in time
	Refused uint64 // operations that were turned away with ErrAway
	Pending int    // subjects that are to be told when Redis is back; -1 is all of them

	Connected         bool   // whether operations go through; false: the circuit is open
	Subscribed        bool   // whether invalidations by others are heard
	LostSubscriptions uint64 // how often that has ended
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
