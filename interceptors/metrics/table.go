package metrics

import (
	"maps"
	"sync"
	"sync/atomic"
)

// maxEntries caps a table. It is far above what linked contracts and
// [maxUnlinked] add up to in any real program.
const maxEntries = 16384

// table is a map for reading: a hit takes no lock and allocates nothing, a new
// entry copies the whole.
type table[K comparable, V any] struct {
	mu      sync.Mutex
	current atomic.Pointer[map[K]V]
}

// get is the value of key, if there is one.
func (t *table[K, V]) get(key K) (value V, ok bool) {
	if m := t.current.Load(); m != nil {
		value, ok = (*m)[key]
	}
	return value, ok
}

// full reports whether nothing more is kept.
func (t *table[K, V]) full() bool {
	m := t.current.Load()
	return m != nil && len(*m) >= maxEntries
}

// add keeps value unless the table is full or another was faster, and gives the
// one that is kept.
func (t *table[K, V]) add(key K, value V) V {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := map[K]V{}
	if m := t.current.Load(); m != nil {
		if kept, ok := (*m)[key]; ok {
			return kept
		}
		if len(*m) >= maxEntries {
			return value
		}
		next = maps.Clone(*m)
	}
	next[key] = value
	t.current.Store(&next)
	return value
}
