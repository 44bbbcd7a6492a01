// Package weakset holds values that are reported while they are in use, without keeping
// them alive: a runtime is not notified when a channel is closed. It gives unique names to
// those that a page lists, up to a cap.
//
//	limiters := weakset.Set[ratelimit.Limiter]{MaxNamed: 64}
//	limiters.AddNamed(limiter, "catalog")
//	for _, one := range limiters.Named() { list(one.Name, one.Value) }
//	for _, limiter := range limiters.All() { sum(limiter) }
package weakset

import (
	"fmt"
	"slices"
	"sync"
	"weak"
)

// Set is a set of values by their addresses. The zero value is empty, and gives no names.
// It is safe for concurrent use; its fields are set before.
type Set[T any] struct {
	// MaxNamed caps those that have names at once.
	MaxNamed int
	// Over, if set, reports that a value is no longer in use although it is referenced. It
	// must not use the set.
	Over func(*T) bool

	mu    sync.Mutex
	held  map[weak.Pointer[T]]struct{}
	sweep int        // size at which those that are gone are dropped
	names []label[T] // of some that are held, as they came
}

type label[T any] struct {
	name string
	of   weak.Pointer[T]
}

// Named is a value and its name.
type Named[T any] struct {
	Name  string
	Value *T
}

// minSweep is the size below which the set is not swept.
const minSweep = 64

// Add adds value without a name; nil is ignored.
func (s *Set[T]) Add(value *T) {
	if value == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold(value)
}

// AddNamed adds value under name, with a number if another has it. A value that has a name
// keeps it, and beyond MaxNamed a value gets none.
func (s *Set[T]) AddNamed(value *T, name string) {
	if value == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold(value)
	known := s.named()
	if len(known) < s.MaxNamed && !slices.ContainsFunc(known, func(n Named[T]) bool { return n.Value == value }) {
		s.names = append(s.names, label[T]{free(name, known), weak.Make(value)})
	}
}

// All are those that are in use, in no order.
func (s *Set[T]) All() []*T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.living()
}

// Named are those of them that have a name, in the order in which they got it.
func (s *Set[T]) Named() []Named[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.named()
}

func (s *Set[T]) hold(value *T) {
	if s.held == nil {
		s.held, s.sweep = map[weak.Pointer[T]]struct{}{}, minSweep
	}
	s.held[weak.Make(value)] = struct{}{}
	if len(s.held) > s.sweep {
		s.sweep = max(2*len(s.living()), minSweep)
	}
}

// living returns those in use and drops the others.
func (s *Set[T]) living() []*T {
	all := make([]*T, 0, len(s.held))
	for held := range s.held {
		if value := s.value(held); value != nil {
			all = append(all, value)
		} else {
			delete(s.held, held)
		}
	}
	return all
}

// named returns those that have a name and are in use, and drops other names.
func (s *Set[T]) named() (all []Named[T]) {
	s.names = slices.DeleteFunc(s.names, func(l label[T]) bool {
		value := s.value(l.of)
		if value != nil {
			all = append(all, Named[T]{l.name, value})
		}
		return value == nil
	})
	return all
}

// value is nil of what is not in use.
func (s *Set[T]) value(held weak.Pointer[T]) *T {
	value := held.Value()
	if value == nil || s.Over != nil && s.Over(value) {
		return nil
	}
	return value
}

func free[T any](name string, known []Named[T]) string {
	taken := func(name string) bool {
		return slices.ContainsFunc(known, func(n Named[T]) bool { return n.Name == name })
	}
	for n, first := 2, name; taken(name); n++ {
		name = fmt.Sprintf("%s %d", first, n)
	}
	return name
}
