package routes

import (
	"errors"
	"slices"

	"github.com/meshlite-go/meshlite/resolver/route"
)

// Stats is what a router does now.
type Stats struct {
	Service    string `json:"service"` // of the chain, or of the one that is refused
	Datacenter string `json:"datacenter"`
	Index      uint64 `json:"index"` // of the chain, in the directory
	// Error is that of the last update: the chain is an older one, or calls fail with it.
	Error  string       `json:"error,omitempty"`
	Failed bool         `json:"failed,omitempty"` // calls fail with Error: there was no chain before
	Sticky string       `json:"sticky,omitempty"`
	Routes []RouteStats `json:"routes"` // none is plain discovery
}

// RouteStats is the state of a route.
type RouteStats struct {
	Name string     `json:"name"`
	Arms []ArmStats `json:"arms"`
}

// ArmStats is the state of an arm.
type ArmStats struct {
	Name   string  `json:"name"`
	Weight float64 `json:"weight"` // percent, in the chain
	Share  float64 `json:"share"`  // percent of the calls of the route now
	Empty  bool    `json:"empty"`  // no target is usable, and other arms have its share
	// Targets are that of the arm, then its failover.
	Targets []TargetStats `json:"targets"`
}

// TargetStats is the state of a target of an arm.
type TargetStats struct {
	ID          string  `json:"id"` // in the chain
	Destination string  `json:"destination"`
	Name        string  `json:"name"`      // for people
	Connected   bool    `json:"connected"` // or connecting: a target without calls is known only
	Usable      int     `json:"usable"`    // endpoints
	Known       int     `json:"known"`     // instances in the directory, the unhealthy included
	Share       float64 `json:"share"`     // percent of the calls of the route now
	Picked      uint64  `json:"picked"`    // attempts, in this chain and those before
	Succeeded   uint64  `json:"succeeded"` // calls that [Router.Count] counted
	Failed      uint64  `json:"failed"`
}

// Stats returns what the router does now. It takes no lock that calls need.
func (r *Router) Stats() Stats {
	r.mu.Lock()
	err := r.err
	r.mu.Unlock()
	return r.current.Load().stats(err)
}

// stats are those of d, which is nil in plain discovery. err is that of the last update.
func (d *draws) stats(err error) Stats {
	s := Stats{Routes: []RouteStats{}}
	var refused *route.RefusedError
	if err != nil {
		s.Error = err.Error()
	}
	if errors.As(err, &refused) {
		s.Service = refused.Service
	}
	if d.planned() == nil {
		s.Failed = d != nil
		return s
	}
	c := d.plan.chain
	s.Service, s.Datacenter, s.Index, s.Sticky = c.Service, c.Datacenter, c.Index, c.Sticky
	for i, planned := range d.plan.routes {
		s.Routes = append(s.Routes, planned.stats(d.routes[i].parts(), d.health))
	}
	return s
}

// parts are the percentages of the ways.
func (r *drawnRoute) parts() map[*way]float64 {
	parts := make(map[*way]float64, len(r.ways))
	var before float64
	for _, o := range r.ways {
		upTo := float64(o.upTo) * 0x1p-64 * 100
		parts[o.way], before = upTo-before, upTo
	}
	return parts
}

func (r *plannedRoute) stats(parts map[*way]float64, alive map[string]health) RouteStats {
	s := RouteStats{Name: r.Name, Arms: []ArmStats{}}
	for _, a := range r.arms {
		arm := ArmStats{Name: a.Name, Weight: a.Weight, Targets: []TargetStats{}}
		for _, w := range a.ways {
			t := w.choice.Target
			h := alive[t.ID]
			arm.Share += parts[w]
			arm.Targets = append(arm.Targets, TargetStats{
				ID: t.ID, Destination: t.Destination(), Name: t.String(), Connected: h.built, Usable: h.usable, Known: h.known, Share: parts[w],
				Picked: w.counts.picked.Load(), Succeeded: w.counts.succeeded.Load(), Failed: w.counts.failed.Load(),
			})
		}
		arm.Empty = a.Weight > 0 && !slices.ContainsFunc(a.ways, func(w *way) bool { return alive[w.Target].present > 0 })
		s.Arms = append(s.Arms, arm)
	}
	return s
}
