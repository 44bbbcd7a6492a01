package cache

import (
	"slices"
	"sync"
)

// share keeps a method within its part of the memory. Which of its entries must go is
// told by a clock (Corbató, 1968): the one that has lain longest without being asked for
// since the hand last passed.
type share struct {
	mu   sync.Mutex
	keys []lying // oldest first
}

// lying is one entry of the method, or was.
type lying struct {
	key   string
	entry *entry
}

// makeRoom gives up entries of e's method until it is within most bytes, e included, which
// is about to be stored by key and counted already.
func (c *Cache) makeRoom(key string, e *entry, most int64) {
	s := &e.method.share
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) > 2*int(e.method.entries.Load())+64 { // most of it has gone for other reasons
		s.keys = slices.DeleteFunc(s.keys, func(l lying) bool { return !c.lies(l) })
	}
	for passed := len(s.keys); len(s.keys) > 0 && e.method.bytes.Load() > most; {
		oldest := s.keys[0]
		s.keys = s.keys[1:]
		switch {
		case !c.lies(oldest):
		case passed > 0 && oldest.entry.asked.CompareAndSwap(true, false):
			s.keys = append(s.keys, oldest)
			passed--
		default:
			c.entries.Invalidate(oldest.key)
		}
	}
	s.keys = append(s.keys, lying{key, e})
}

// lies reports whether this very entry is still in memory.
func (c *Cache) lies(l lying) bool {
	e, ok := c.entries.GetEntryQuietly(l.key)
	return ok && e.Value == l.entry
}
