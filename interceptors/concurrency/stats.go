package concurrency

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Result is the outcome of a call at the limit.
type Result uint8

const (
	// Admitted is a call that the limit admitted to its handler.
	Admitted Result = iota + 1
	// Refused is a call that found the limit reached.
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

// Stage is [interceptors.Concurrency].
func (Result) Stage() interceptors.Stage { return interceptors.Concurrency }

// Result is [Result.String].
func (r Result) Result() string { return r.String() }

// Limit is "concurrency": a method has one such limit, without a name.
func (Result) Limit() string { return interceptors.Concurrency.String() }

// Decides reports whether the call was refused: an admission would hide the verdict of the
// rate limit that stands further out.
func (r Result) Decides() bool { return r == Refused }

// Stats are the figures of one method since it was first limited.
type Stats struct {
	Method   string `json:"method"` // "/sweetshop.catalog.v1.CatalogService/GetSweet", or "other" for those beyond 1,024
	Adaptive bool   `json:"adaptive"`
	Limit    int64  `json:"limit"`     // of calls that run at once, now
	InFlight int64  `json:"in_flight"` // calls that run

	Admitted uint64 `json:"admitted"`
	Refused  uint64 `json:"refused"`
	// Ignored counts priorities that had no effect: unknown, given twice, or of a caller
	// who is not trusted.
	Ignored uint64 `json:"ignored_priorities"`

	// Of an adaptive limit: the mean latency at half the limit, and of the latest
	// window. 0 while unknown.
	BaseLatency   time.Duration `json:"base_latency_ns"`
	SampleLatency time.Duration `json:"sample_latency_ns"`
}

// Stats reads the figures of all methods that have a limit and have been called, by
// name. They are taken one after the other, not at one moment.
func (l *Limiter) Stats() []Stats {
	all := []Stats{}
	for _, m := range l.methods.all() {
		all = append(all, m.stats())
	}
	slices.SortFunc(all, func(a, b Stats) int { return cmp.Compare(a.Method, b.Method) })
	return all
}

func (m *method) stats() Stats {
	r := m.rule.Load()
	s := Stats{
		Method: m.name, Adaptive: r.adaptive, Limit: m.limit(r), InFlight: m.inFlight.Load(),
		Admitted: m.admitted.Load(), Refused: m.refused.Load(), Ignored: m.ignored.Load(),
	}
	if r.adaptive {
		m.mu.Lock()
		defer m.mu.Unlock()
		s.BaseLatency, s.SampleLatency = time.Duration(m.gradient.base), time.Duration(m.gradient.last)
	}
	return s
}
