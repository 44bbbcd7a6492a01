package routes

import (
	"slices"
	"time"
)

// health is what is alive of a target.
type health struct {
	known   int     // instances in the directory, the unhealthy included
	usable  int     // endpoints that are connected and not ejected, or not connected yet
	ready   bool    // a call can be sent now
	present float64 // the part of its calls that it can take: usable/known/threshold, at most 1
	steady  float64 // the same, as it was at worst in the failback delay
	built   bool    // it has connections, or is connecting
}

// assumed is the health of targets before anything is known.
var assumed = health{ready: true, present: 1, steady: 1}

// tracked is what is followed of a target, by a channel or by a [Set].
type tracked struct {
	name   string // for people
	known  int    // instances in the directory, the unhealthy included
	steady steady
	health health
	status string // that was logged last
}

// track makes h, whose parts it sets, the health at now. It returns when to do so again though
// nothing changes; 0 is never.
func (t *tracked) track(h health, now time.Time, s *settings) (again time.Duration) {
	h.present = part(h.usable, h.known, s.threshold)
	again = t.steady.follow(h.present, now, s.failbackDelay)
	h.steady = t.steady.part
	t.health = h
	return again
}

// part is how much of its calls a target can take with so many usable endpoints.
func part(usable, known int, threshold float64) float64 {
	if usable == 0 {
		return 0
	}
	return min(1, float64(usable)/float64(max(known, usable))/threshold)
}

// steady follows a part down at once, and up to the lowest value of the delay: one instance that
// comes and goes moves calls once.
type steady struct {
	part float64
	held []held // rising: at most one for each number of usable instances
}

// held is the lowest value since a time, of the last delay.
type held struct {
	part  float64
	since time.Time
}

// follow returns when it must be called again though nothing changes; 0 is never.
func (s *steady) follow(present float64, now time.Time, delay time.Duration) time.Duration {
	since := now
	for n := len(s.held); n > 0 && s.held[n-1].part >= present; n-- {
		since, s.held = s.held[n-1].since, s.held[:n-1]
	}
	s.held = append(s.held, held{present, since})
	for len(s.held) > 1 && now.Sub(s.held[1].since) >= delay {
		s.held = slices.Delete(s.held, 0, 1)
	}
	s.part = s.held[0].part
	if len(s.held) == 1 {
		return 0
	}
	return delay - now.Sub(s.held[1].since)
}
