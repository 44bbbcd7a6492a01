package demo

import "time"

// schedule is when the calls of an open loop are due, counted from its start.
type schedule struct {
	rate    int           // calls a second
	doubles time.Duration // when the rate doubles; 0 is never
}

// after is when the call after one that is due at t is due.
func (s schedule) after(t time.Duration) time.Duration {
	rate := s.rate
	if s.doubles > 0 && t >= s.doubles {
		rate *= 2
	}
	return t + time.Second/time.Duration(rate)
}

// phase is a third of the story.
type phase int

const (
	steady phase = iota
	doubled
	faults
	phases
)

var phaseNames = [phases]string{"steady", "doubled", "faults"}

func (p phase) String() string { return phaseNames[p] }

// phaseAt is the phase of a story of the given length at a time since its start.
// The last one lasts until the story ends.
func phaseAt(since, length time.Duration) phase {
	switch {
	case since < length/3:
		return steady
	case since < 2*length/3:
		return doubled
	default:
		return faults
	}
}
