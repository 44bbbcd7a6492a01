package cache

import (
	"slices"
	"sync"
	"weak"
)

// share keeps a method within its part of the memory. Which of its entries must go is
// told by a clock (Corbató, 1968): the one that has lain longest without being asked for
// since the hand last passed.
type share struct {
	mu sync.Mutex
	// lying are the entries of the method, oldest first. What has gone for other reasons
	// must not stay in memory for this.
	lying []weak.Pointer[entry]
}

// makeRoom gives up entries of e's method until it is within most bytes, e included, and
// stores e.
func (c *Cache) makeRoom(e *entry, most int64) {
	s := &e.method.share
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lying) > 2*int(e.method.entries.Load())+64 {
		s.lying = slices.DeleteFunc(s.lying, func(p weak.Pointer[entry]) bool { return !c.lies(p.Value()) })
	}
	for passed := len(s.lying); len(s.lying) > 0 && e.method.bytes.Load()+int64(e.weight) > most; {
		first := s.lying[0]
		s.lying = s.lying[1:]
		oldest := first.Value()
		switch {
		case !c.lies(oldest):
		case passed > 0 && oldest.touched.CompareAndSwap(true, false):
			s.lying = append(s.lying, first)
			passed--
		default:
			c.entries.Invalidate(oldest.key)
		}
	}
	s.lying = append(s.lying, weak.Make(e))
	c.put(e) // before anybody else can take it for gone
}

// lies reports whether this very entry is still in memory.
func (c *Cache) lies(e *entry) bool {
	if e == nil {
		return false
	}
	found, ok := c.entries.GetEntryQuietly(e.key)
	return ok && found.Value == e
}
