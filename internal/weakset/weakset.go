// Package weakset holds values of which something is told as long as they are in use,
// without keeping them alive: nobody tells a runtime that a channel is closed.
//
//	var limiters weakset.Set[ratelimit.Limiter]
//	limiters.Add(limiter)
//	for _, limiter := range limiters.All() { ... }
package weakset

import (
	"sync"
	"weak"
)

// Set is a set of values by their addresses. The zero value is empty. It is safe for
// concurrent use.
type Set[T any] struct {
	mu    sync.Mutex
	held  map[weak.Pointer[T]]struct{}
	sweep int // how many make it look for those that are gone
}

// minSweep is how many are not worth a look.
const minSweep = 64

// Add takes value in; nil is none.
func (s *Set[T]) Add(value *T) {
	if value == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		s.held, s.sweep = map[weak.Pointer[T]]struct{}{}, minSweep
	}
	s.held[weak.Make(value)] = struct{}{}
	if len(s.held) > s.sweep {
		s.sweep = max(2*len(s.living()), minSweep)
	}
}

// All are those that are in use, in no order.
func (s *Set[T]) All() []*T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.living()
}

// living forgets those that are gone.
func (s *Set[T]) living() []*T {
	all := make([]*T, 0, len(s.held))
	for held := range s.held {
		if value := held.Value(); value != nil {
			all = append(all, value)
		} else {
			delete(s.held, held)
		}
	}
	return all
}
