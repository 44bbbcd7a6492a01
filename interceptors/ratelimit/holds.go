package ratelimit

import "sync/atomic"

// holds are refusals by others that are in force. Each has one of two places by its
// key, so there may be about as many as places; of more, those that end first go.
type holds []atomic.Pointer[hold]

type hold struct {
	key    key
	until  int64
	probed atomic.Int64 // until when a call finds out whether it is over
}

func (h holds) sample(k key) [2]*atomic.Pointer[hold] {
	n := uint64(len(h))
	return [...]*atomic.Pointer[hold]{&h[k.hi%n], &h[k.lo%n]}
}

// find is nil for a key that is not held back.
func (h holds) find(k key) *hold {
	for _, place := range h.sample(k) {
		if there := place.Load(); there != nil && there.key == k {
			return there
		}
	}
	return nil
}

// drop ends the hold of a key.
func (h holds) drop(k key) {
	for _, place := range h.sample(k) {
		if there := place.Load(); there != nil && there.key == k {
			place.CompareAndSwap(there, nil)
		}
	}
}

// put never shortens a hold.
func (h holds) put(fresh *hold) {
	for {
		var at *atomic.Pointer[hold]
		var old *hold
		for _, place := range h.sample(fresh.key) {
			there := place.Load()
			if there != nil && there.key == fresh.key {
				at, old = place, there
				break
			}
			if at == nil || old != nil && (there == nil || there.until < old.until) {
				at, old = place, there
			}
		}
		if old != nil && old.until >= fresh.until && old.key == fresh.key || at.CompareAndSwap(old, fresh) {
			return
		}
	}
}
