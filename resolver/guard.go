package resolver

import (
	"cmp"
	"slices"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// guard decides how much of a removal is believed. A directory that was restarted
// empty, or whose servers disagree, answers with far too few instances, and for
// that moment what was known before is nearer to the truth.
//
// It is not safe for concurrent use.
type guard struct {
	grace      time.Duration
	maxRemoval float64 // the share that may vanish at once

	list    []catalog.Instance // what is believed; never changed in place
	missing map[string]absence // of these, by address: not in the last answer
	doubt   bool               // the directory has failed since its last answer
	peak    int                // the most that one answer had within the grace time
	peaked  time.Time
}

// absence tells how long an instance has been missing.
type absence struct {
	since   time.Time
	renewed int // how often the grace time has begun anew
}

// maxRenewals lets what is in no answer be given up although the directory fails
// between any two.
const maxRenewals = 3

// answer takes in what the directory has answered. At most maxRemoval of the
// instances vanish at once, whether in one answer or one after the other, and
// never all of them; the others are missing until the grace time is over. After
// an outage none vanishes at once, and the grace time begins anew, though not after
// each of many: an agent that was restarted knows nothing yet.
func (g *guard) answer(answer []catalog.Instance, now time.Time) {
	present := make(map[string]struct{}, len(answer))
	for i := range answer {
		present[answer[i].Address] = struct{}{}
	}
	var gone, held []catalog.Instance
	missing := map[string]absence{}
	for _, i := range g.list {
		absent, missed := g.missing[i.Address]
		switch _, here := present[i.Address]; {
		case here:
		case !missed:
			gone = append(gone, i)
		default:
			if g.doubt && absent.renewed < maxRenewals {
				absent = absence{now, absent.renewed + 1}
			}
			missing[i.Address] = absent
			held = append(held, i)
		}
	}
	known := len(g.list) - len(g.missing) // were in the last answer
	kept := g.keep(len(gone), known, len(answer), len(held), now)
	for _, i := range gone[len(gone)-kept:] {
		missing[i.Address] = absence{since: now}
		held = append(held, i)
	}
	g.missing, g.doubt = missing, false
	g.list = merge(answer, held)
}

// keep is how many of those that are gone must not go at once.
func (g *guard) keep(gone, known, answered, held int, now time.Time) int {
	if now.Sub(g.peaked) > g.grace || known >= g.peak {
		g.peak, g.peaked = known, now
	}
	if answered == 0 || g.doubt {
		return gone
	}
	least := g.peak - int(g.maxRemoval*float64(g.peak))
	return min(gone, max(0, gone-int(g.maxRemoval*float64(known)), least-answered-held))
}

// fail says that the directory could not be asked. Nothing is given up meanwhile.
func (g *guard) fail() { g.doubt = true }

// expire gives up what has been missing for the grace time, and says when it has
// to be called again: 0 is never.
func (g *guard) expire(now time.Time) (again time.Duration) {
	if g.doubt || len(g.missing) == 0 {
		return 0
	}
	over := map[string]bool{}
	for address, absent := range g.missing {
		switch left := g.grace - now.Sub(absent.since); {
		case left <= 0:
			over[address] = true
			delete(g.missing, address)
		case again == 0 || left < again:
			again = left
		}
	}
	if len(over) > 0 {
		g.list = slices.DeleteFunc(slices.Clone(g.list), func(i catalog.Instance) bool { return over[i.Address] })
	}
	return again
}

// holding is how many instances are believed in spite of the last answer.
func (g *guard) holding() int { return len(g.missing) }

// merge adds held to list, which keeps its order when it is not by address: then
// it is by distance, and nobody knows that of the held ones.
func merge(list, held []catalog.Instance) []catalog.Instance {
	if len(held) == 0 {
		return list
	}
	byAddress := func(a, b catalog.Instance) int { return cmp.Compare(a.Address, b.Address) }
	sorted := slices.IsSortedFunc(list, byAddress)
	all := slices.Concat(list, held)
	if sorted {
		slices.SortFunc(all, byAddress)
	}
	return all
}
