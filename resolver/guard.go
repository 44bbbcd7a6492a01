package resolver

import (
	"cmp"
	"slices"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// guard limits how fast instances are removed from the list of one watch: see the rules
// in the package comment. It is not safe for concurrent use.
type guard struct {
	grace      time.Duration
	maxRemoval float64 // share of the list that may vanish at once

	list    []catalog.Instance // what is published: those of the last answer and the held ones; never changed in place
	missing map[string]absence // the held ones, by address: in list, but not in the last answer
	outage  bool               // the directory has failed since its last answer
	peak    int                // most instances in one answer within the grace time, without the latest
	peakAt  time.Time          // when that answer was replaced
}

// absence is how long an instance has been missing.
type absence struct {
	since    time.Time
	restarts int // of its grace time, each after an outage
}

// maxGraceRestarts bounds how long a directory that keeps failing delays a removal.
const maxGraceRestarts = 3

// accept updates the list with an answer of the directory. Instances that the answer
// lacks are removed at once or, beyond what removable allows, held until expire.
func (g *guard) accept(answer []catalog.Instance, now time.Time) {
	present := addresses(answer)
	var vanished []catalog.Instance // in the last answer, and not in this one
	var held []catalog.Instance     // in neither, and in the list all the same
	missing := map[string]absence{}
	for _, i := range g.list {
		absent, wasMissing := g.missing[i.Address]
		switch {
		case present[i.Address]:
		case !wasMissing:
			vanished = append(vanished, i)
		default:
			if g.outage && absent.restarts < maxGraceRestarts { // it could not come back meanwhile
				absent = absence{since: now, restarts: absent.restarts + 1}
			}
			missing[i.Address] = absent
			held = append(held, i)
		}
	}
	last := len(g.list) - len(g.missing) // size of the last answer
	if now.Sub(g.peakAt) > g.grace || last >= g.peak {
		g.peak, g.peakAt = last, now
	}
	removed := g.removable(len(vanished), last, len(answer), len(held)) // whichever: none is in the answer
	for _, i := range vanished[removed:] {
		missing[i.Address] = absence{since: now}
		held = append(held, i)
	}
	g.missing, g.outage = missing, false
	g.list = merge(answer, held)
}

// removable returns how many of the vanished instances may be removed at once. last and
// answered are the sizes of the last answer and of this one, held is how many are held
// already. Two limits apply: a share of the last answer and, so that several small removals do
// not add up to a large one, the same share of the peak. After an outage, and for an empty
// answer, it is none.
func (g *guard) removable(vanished, last, answered, held int) int {
	if answered == 0 || g.outage {
		return 0
	}
	floor := g.peak - int(g.maxRemoval*float64(g.peak)) // that the list must not fall below
	hold := max(0, vanished-int(g.maxRemoval*float64(last)), floor-answered-held)
	return vanished - min(vanished, hold)
}

// fail records that the directory could not be reached: nothing expires until it answers.
func (g *guard) fail() { g.outage = true }

// expire removes instances that have been missing for the grace time. It returns after how
// long to call it again, 0 for not before the next answer.
func (g *guard) expire(now time.Time) (again time.Duration) {
	if g.outage || len(g.missing) == 0 {
		return 0
	}
	expired := map[string]bool{}
	for address, absent := range g.missing {
		switch left := g.grace - now.Sub(absent.since); {
		case left <= 0:
			expired[address] = true
			delete(g.missing, address)
		case again == 0 || left < again:
			again = left
		}
	}
	if len(expired) > 0 {
		g.list = slices.DeleteFunc(slices.Clone(g.list), func(i catalog.Instance) bool { return expired[i.Address] })
	}
	return again
}

// held returns how many instances of the list are missing from the last answer.
func (g *guard) held() int { return len(g.missing) }

// merge adds others to list. A list that is sorted by address stays sorted; one by distance
// keeps its order, and the others, whose distance is unknown, are at its end.
func merge(list, others []catalog.Instance) []catalog.Instance {
	if len(others) == 0 {
		return list
	}
	byAddress := func(a, b catalog.Instance) int { return cmp.Compare(a.Address, b.Address) }
	sorted := slices.IsSortedFunc(list, byAddress)
	all := slices.Concat(list, others)
	if sorted {
		slices.SortFunc(all, byAddress)
	}
	return all
}

func addresses(list []catalog.Instance) map[string]bool {
	set := make(map[string]bool, len(list))
	for i := range list {
		set[list[i].Address] = true
	}
	return set
}

// panicSettings say when instances are called in spite of their health checks.
type panicSettings struct {
	threshold   float64 // share of all instances that must be healthy
	maintenance bool    // those in maintenance count, and are called, as well
}

// defaultThreshold is that of [WithPanicThreshold].
const defaultThreshold = 0.3

// BelowPanicThreshold reports whether a channel with default options calls the unhealthy
// instances of a service as well.
func BelowPanicThreshold(healthy, unhealthy int) bool {
	return panicSettings{threshold: defaultThreshold}.below(healthy, unhealthy)
}

func (p panicSettings) below(healthy, unhealthy int) bool {
	return unhealthy > 0 && float64(healthy) < p.threshold*float64(healthy+unhealthy)
}

// callable is what one watch offers to call, by the panic threshold.
type callable struct {
	list       []catalog.Instance // empty if no instance is healthy
	lastResort []catalog.Instance // unhealthy ones, to call if no datacenter has a list
	panicking  int                // unhealthy instances in list
}

// choose adds the unhealthy instances to the healthy ones when too few are healthy.
func (p panicSettings) choose(healthy, unhealthy []catalog.Instance) callable {
	if p.threshold == 0 || len(unhealthy) == 0 {
		return callable{list: healthy}
	}
	present := addresses(healthy) // held instances may be in both
	others := slices.DeleteFunc(slices.Clone(unhealthy), func(i catalog.Instance) bool {
		return present[i.Address] || i.Status == catalog.Maintenance && !p.maintenance
	})
	switch {
	case !p.below(len(healthy), len(others)):
		return callable{list: healthy}
	case len(healthy) == 0:
		return callable{lastResort: others}
	default:
		return callable{list: merge(healthy, others), panicking: len(others)}
	}
}

// all returns the list or, where it is empty, the last resort.
func (c callable) all() []catalog.Instance {
	if len(c.list) == 0 {
		return c.lastResort
	}
	return c.list
}
