package routes

import (
	"slices"

	"github.com/meshlite-go/meshlite/internal/rendezvous"
)

// shares spreads the calls of an arm: what a target cannot take goes to the next one. Calls wait
// for the target of the arm while it is being connected, as its failover is not due, and for
// others if there is nothing else. Without a usable target the result is nil.
func (a *plannedArm) shares(of func(id string) health) []share {
	for _, part := range []func(i int, h health) float64{
		func(i int, h health) float64 {
			if !h.ready && i > 0 {
				return 0
			}
			return h.steady
		},
		func(_ int, h health) float64 {
			if !h.ready {
				return 0
			}
			return h.present
		},
		func(_ int, h health) float64 { return h.present },
	} {
		var all []share
		left := 1.0
		for i, w := range a.ways {
			if part := left * part(i, of(w.Target)); part > 0 {
				all = append(all, share{w, part})
				left -= part
			}
		}
		if len(all) > 0 {
			return all
		}
	}
	return nil
}

// draw makes the odds of all routes. of is the health of a target of the chain.
func (p *plan) draw(of func(id string) health) *draws {
	d := &draws{plan: p, routes: make([]drawnRoute, len(p.routes)), health: make(map[string]health, len(p.chain.Targets))}
	for id := range p.chain.Targets {
		d.health[id] = of(id)
	}
	for i, r := range p.routes {
		d.routes[i] = r.draw(of, p.chain.Sticky != "")
	}
	return d
}

func (r *plannedRoute) draw(of func(id string) health, sticky bool) drawnRoute {
	var drawn drawnRoute
	var all []share
	add := func(a *plannedArm, shares []share) {
		var sum float64
		for _, s := range shares {
			sum += s.part
		}
		for _, s := range shares {
			all = append(all, share{s.way, a.Weight * s.part / sum})
		}
		if sticky && len(shares) > 0 {
			drawn.arms = append(drawn.arms, drawnArm{a.Weight, rendezvous.Hash(a.Name), newOdds(shares)})
		}
	}
	for i := range r.arms {
		if a := &r.arms[i]; a.Weight > 0 {
			add(a, a.shares(of))
		}
	}
	if len(all) == 0 { // nothing is alive: calls fail with the reason of their own target
		for i := range r.arms {
			if a := &r.arms[i]; a.Weight > 0 && len(a.ways) > 0 {
				add(a, []share{{a.ways[0], 1}})
			}
		}
	}
	drawn.ways = newOdds(all)
	return drawn
}

// conditions are the states of the targets of arms with calls, by ID. of is their health.
func (p *plan) conditions(of func(id string) health) map[string]string {
	now := map[string]string{}
	for _, r := range p.routes {
		for i := range r.arms {
			a := &r.arms[i]
			if a.Weight <= 0 || len(a.ways) == 0 {
				continue
			}
			id, shares := a.ways[0].Target, a.shares(of)
			switch {
			case len(shares) == 0:
				now[id] = empty
			case slices.ContainsFunc(shares, func(s share) bool { return s.way != a.ways[0] }):
				now[id] = failingOver
			case now[id] == "":
				now[id] = recovered
			}
		}
	}
	return now
}
