package routes

import "time"

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
	part    float64
	started bool
	rising  time.Time // since when it has been above part; zero is not
	lowest  float64   // since then
}

// follow returns when it must be called again though nothing changes; 0 is never.
func (s *steady) follow(present float64, now time.Time, delay time.Duration) time.Duration {
	if !s.started {
		s.started, s.part = true, present
	}
	if present <= s.part {
		s.part, s.rising = present, time.Time{}
		return 0
	}
	if s.rising.IsZero() {
		s.rising, s.lowest = now, present
	}
	s.lowest = min(s.lowest, present)
	if now.Sub(s.rising) >= delay {
		s.part, s.rising, s.lowest = s.lowest, now, present
		if present <= s.part {
			s.rising = time.Time{}
			return 0
		}
	}
	return delay - now.Sub(s.rising)
}
