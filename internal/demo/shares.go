package demo

import (
	"maps"
	"time"
)

const (
	// settle is how long after a change of the set of instances the calls do not
	// count: connections are made, and the figures are read a few times a second.
	settle = 500 * time.Millisecond
	// minWindow is the shortest time between two changes that tells anything.
	minWindow = time.Second
	// minExpected is how many calls an instance must have been due for a share
	// that is off by a fifth to be more than chance.
	minExpected = 25
)

// share is what an instance got of the calls of its service, and what it would
// have got if all that lived at the time had got the same.
type share struct {
	calls, expected float64
}

// off is by which part of the expected calls the real ones differ.
func (s share) off() float64 { return s.calls/s.expected - 1 }

// judged reports whether there were enough calls to tell.
func (s share) judged() bool { return s.expected >= minExpected }

// shares adds up the shares of the instances of one service over the windows in
// which the set of living instances did not change.
type shares struct {
	sum map[string]share // by instance

	changed time.Time         // when the set last changed
	base    map[string]uint64 // calls at the begin of the window, nil before it
	last    map[string]uint64 // calls when last looked at
	baseAt  time.Time
	lastAt  time.Time
}

// observe is told the calls of the living instances, a few times a second.
func (s *shares) observe(now time.Time, calls map[string]uint64) {
	if !sameKeys(calls, s.last) {
		s.close()
		s.changed = now
	}
	s.last, s.lastAt = maps.Clone(calls), now
	if s.base == nil && now.Sub(s.changed) >= settle {
		s.base, s.baseAt = s.last, now
	}
}

// close ends the window with what was seen last.
func (s *shares) close() {
	if s.base != nil && s.lastAt.Sub(s.baseAt) >= minWindow {
		s.count()
	}
	s.base, s.last = nil, nil
}

func (s *shares) count() {
	var total float64
	for id, calls := range s.last {
		total += float64(calls - s.base[id])
	}
	if s.sum == nil {
		s.sum = map[string]share{}
	}
	for id, calls := range s.last {
		sum := s.sum[id]
		sum.calls += float64(calls - s.base[id])
		sum.expected += total / float64(len(s.last))
		s.sum[id] = sum
	}
}

func sameKeys(a, b map[string]uint64) bool {
	if len(a) != len(b) {
		return false
	}
	for key := range a {
		if _, both := b[key]; !both {
			return false
		}
	}
	return true
}
