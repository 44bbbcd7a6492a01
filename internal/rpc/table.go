package rpc

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Table is a bounded map that calls read: a hit takes no lock and allocates nothing, a new
// entry copies the map. It is safe for concurrent use; Max is set before.
type Table[K comparable, V any] struct {
	Max int // entries

	mu      sync.Mutex // for adding
	current atomic.Pointer[map[K]V]
}

// Get returns the value of key, if there is one.
func (t *Table[K, V]) Get(key K) (value V, ok bool) {
	if m := t.current.Load(); m != nil {
		value, ok = (*m)[key]
	}
	return value, ok
}

// Full reports whether the table takes no further keys.
func (t *Table[K, V]) Full() bool {
	m := t.current.Load()
	return m != nil && len(*m) >= t.Max
}

// Add stores value unless key has one already or the table is full. It returns the value
// of key from then on, or value itself when the table is full.
func (t *Table[K, V]) Add(key K, value V) V {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := map[K]V{}
	if m := t.current.Load(); m != nil {
		if stored, ok := (*m)[key]; ok {
			return stored
		}
		if len(*m) >= t.Max {
			return value
		}
		next = maps.Clone(*m)
	}
	next[key] = value
	t.current.Store(&next)
	return value
}

// All returns the entries as they are now, not to be changed.
func (t *Table[K, V]) All() map[K]V {
	if m := t.current.Load(); m != nil {
		return *m
	}
	return nil
}
