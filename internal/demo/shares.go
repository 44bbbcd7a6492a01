package demo

import (
	"maps"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
)

const (
	// settle is how long after a change of the set of instances the calls do not
	// count: connections are made, and the figures are read a few times a second.
	settle = 500 * time.Millisecond
	// minWindow is the shortest time between two changes that is judged.
	minWindow = time.Second
	// minExpected is the expected number of calls from which a deviation of a fifth
	// is more than chance.
	minExpected = 25
)

// share holds an instance's calls and its expected calls: equal for all running
// instances, less during slow start.
type share struct {
	calls, expected float64
}

// off is by which part of the expected calls the real ones differ.
func (s share) off() float64 { return s.calls/s.expected - 1 }

// judged reports whether there were enough calls for a verdict.
func (s share) judged() bool { return s.expected >= minExpected }

// shares adds up the shares of the instances of one service over the windows in
// which the set of living instances did not change.
type shares struct {
	sum    map[string]share     // by instance
	joined map[string]time.Time // when it came; those of the beginning are left out

	changed time.Time         // when the set last changed
	window  map[string]share  // since baseAt, nil before it has settled
	last    map[string]uint64 // calls when last looked at
	baseAt  time.Time
	lastAt  time.Time
}

// observe records the calls of the running instances. It is called a few times a second.
func (s *shares) observe(now time.Time, calls map[string]uint64) {
	switch {
	case !sameKeys(calls, s.last):
		s.close()
		s.join(now, calls)
		s.changed = now
	case s.window != nil:
		s.count(now, calls)
	case now.Sub(s.changed) >= settle:
		s.window, s.baseAt = map[string]share{}, now
	}
	s.last, s.lastAt = maps.Clone(calls), now
}

// join records new instances. Those of the first call are not new: clients give them no
// slow start.
func (s *shares) join(now time.Time, calls map[string]uint64) {
	first := s.joined == nil
	if first {
		s.joined = map[string]time.Time{}
	}
	for id := range calls {
		if _, known := s.joined[id]; !known {
			s.joined[id] = now
			if first {
				s.joined[id] = now.Add(-time.Hour)
			}
		}
	}
}

// close ends the window with what was seen last.
func (s *shares) close() {
	if s.window != nil && s.lastAt.Sub(s.baseAt) >= minWindow {
		if s.sum == nil {
			s.sum = map[string]share{}
		}
		for id, more := range s.window {
			s.sum[id] = share{s.sum[id].calls + more.calls, s.sum[id].expected + more.expected}
		}
	}
	s.window, s.last = nil, nil
}

// count adds what came since the last look.
func (s *shares) count(now time.Time, calls map[string]uint64) {
	var total, weights float64
	for id := range calls {
		total += float64(calls[id] - s.last[id])
		weights += s.weight(id, now)
	}
	for id := range calls {
		more := s.window[id]
		more.calls += float64(calls[id] - s.last[id])
		more.expected += total * s.weight(id, now) / weights
		s.window[id] = more
	}
}

// weight is the part of a full share that an instance is expected to get, by clients'
// slow start.
func (s *shares) weight(id string, now time.Time) float64 {
	slow := balancer.DefaultSettings().SlowStart
	return slow.Part(now.Sub(s.joined[id]))
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
