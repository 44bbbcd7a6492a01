package chaos

import (
	"context"
	"fmt"
	"time"
)

// row is one fault: how it is made and ended, what must be reached after it, and
// what callers may notice.
type row struct {
	name  string
	does  string
	short bool // whether it belongs to a short run
	times int  // how often, 0 is once
	// lasts is how long the fault lasts where it has a length.
	lasts, lastsShort time.Duration

	needs   needs
	prepare func(context.Context, *scene) error // nil: a steady load on the whole mesh
	inject  func(context.Context, *scene) error // makes the fault and lets it last
	heal    func(context.Context, *scene) error // ends it; nil for what ends by itself

	wanted string // the state that has healed, in words
	healed func(context.Context, *scene) bool
	judged func(*scene) error // what else must hold then; nil for nothing

	aim aim
}

// aim is what must hold beside the mesh being whole in the end.
type aim struct {
	// heal bounds the time from the end of the fault, or from a kill, until the
	// wanted state is reached.
	heal time.Duration
	// inFlight allows calls to fail that were on their way to an instance when it
	// was killed. No other call may fail.
	inFlight bool
	// failed allows that many calls to fail: those by which a client detects an
	// unhealthy instance.
	failed uint64
	// quiet allows no call to fail that is sent once the wanted state is reached.
	quiet bool
}

func (a aim) String() string {
	failed := fmt.Sprintf("%d failed", a.failed)
	switch {
	case a.inFlight:
		failed = "only what was in flight there failed"
	case a.failed > 0:
		failed += " or less"
	}
	if a.quiet {
		failed += " and none later"
	}
	return fmt.Sprintf("%s, healed within %v", failed, a.heal)
}

// length is how long the fault lasts.
func (r row) length(short bool) time.Duration {
	if short {
		return r.lastsShort
	}
	return r.lasts
}

// choose are the rows to play: those that are named, or all of the run.
func choose(short bool, only []string) ([]row, error) {
	var chosen []row
	for _, r := range rows() {
		if len(only) == 0 && (r.short || !short) {
			chosen = append(chosen, r)
		}
	}
	for _, name := range only {
		r, known := find(name)
		if !known {
			return nil, fmt.Errorf("fault %q is not known: write %s", name, names())
		}
		chosen = append(chosen, r)
	}
	return chosen, nil
}

func find(name string) (row, bool) {
	for _, r := range rows() {
		if r.name == name {
			return r, true
		}
	}
	return row{}, false
}
