package ratelimit

import "fmt"

// Result is what became of a call at a limit.
type Result uint8

const (
	// Admitted is a call that the limit let pass and was charged for.
	Admitted Result = iota + 1
	// Refused is a call that the limit refused.
	Refused
)

// String is "admitted" or "refused".
func (r Result) String() string {
	switch r {
	case Admitted:
		return "admitted"
	case Refused:
		return "refused"
	default:
		return fmt.Sprintf("result %d", uint8(r))
	}
}

// Stats are the figures of a limiter since it was made.
type Stats struct {
	Admitted, Refused uint64 // calls of methods that have a limit

	Keys      int    // whose counts are kept, idle ones included
	Forgotten uint64 // keys forgotten before their bucket was full again
}

// Stats reads the figures. They are taken one after the other, not at one moment.
func (l *Limiter) Stats() Stats {
	return Stats{
		Admitted:  l.admitted.Load(),
		Refused:   l.refused.Load(),
		Keys:      int(l.table.used.Load()),
		Forgotten: l.table.lost.Load(),
	}
}
