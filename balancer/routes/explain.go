package routes

import (
	"context"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// Explanation is where a call would go now, and why. Parts and odds are percent, or parts of a
// whole where they say so.
type Explanation struct {
	Service    string `json:"service,omitempty"`
	Datacenter string `json:"datacenter,omitempty"`
	Index      uint64 `json:"index,omitempty"` // of the chain, in the directory; 0 is plain discovery
	// Error is that of the last update: the chain is an older one, or the call would fail with it.
	Error string `json:"error,omitempty"`
	Fails bool   `json:"fails"` // no target can be chosen: the call would fail with Error
	// Sticky is the metadata key that decides the arm; Stuck says that the call has a value of it.
	Sticky string       `json:"sticky,omitempty"`
	Stuck  bool         `json:"stuck,omitempty"`
	Idle   bool         `json:"idle"`   // the channel is not connected: targets are assumed to be healthy
	Routes []Verdict    `json:"routes"` // up to the one that matches; none is plain discovery
	Retry  *route.Retry `json:"retry"`  // of the route that matches; nil is none
	// Arms are those of the route that matches. Plain discovery has one, without a name.
	Arms []ArmExplanation `json:"arms"`
}

// Verdict is a route, and why it does not take the call.
type Verdict struct {
	Name    string `json:"name"`
	Matches bool   `json:"matches"`
	Reason  string `json:"reason,omitempty"`
}

// ArmExplanation is an arm of the route that takes the call.
type ArmExplanation struct {
	Name    string              `json:"name"`
	Weight  float64             `json:"weight"`     // percent, in the chain
	Share   float64             `json:"share"`      // percent of such calls now
	Timeout float64             `json:"timeout_ms"` // of the route or the resolver; 0 is none
	Empty   bool                `json:"empty"`      // no target is usable, and other arms have its share
	Targets []TargetExplanation `json:"targets"`
}

// TargetExplanation is a target of an arm: its own, then its failover.
type TargetExplanation struct {
	TargetStats
	Failover bool    `json:"failover"` // it takes over what those before cannot take
	Capacity float64 `json:"capacity"` // percent of its calls that it can take
	// Recovering: it could take more, and gets it when the failback delay is over.
	Recovering bool `json:"recovering,omitempty"`
	// Outlook is nil without connections, and for policies of other modules.
	Outlook *balancer.Outlook `json:"outlook"`
}

// Window shows the policy of the channel while there is no chain.
func (r *Router) Window() *balancer.Window { return &r.window }

// Explain returns where a call of method ("/package.Service/Method") with the outgoing metadata of
// ctx would go. It chooses nothing, and connects nothing.
func (r *Router) Explain(ctx context.Context, method string) Explanation {
	e := Explanation{Routes: []Verdict{}, Arms: []ArmExplanation{}}
	r.mu.Lock()
	p := r.policy
	if r.err != nil {
		e.Error = r.err.Error()
	}
	r.mu.Unlock()
	d := r.current.Load()
	switch {
	case d == nil:
		r.explainPlain(ctx, &e)
		return e
	case d.err != nil:
		e.Fails = true
		return e
	}
	c := d.plan.chain
	e.Service, e.Datacenter, e.Index, e.Sticky, e.Idle = c.Service, c.Datacenter, c.Index, c.Sticky, p == nil
	md, _ := metadata.FromOutgoingContext(ctx)
	matched := -1
	for i, v := range c.Explain(method, md) {
		e.Routes = append(e.Routes, Verdict{v.Route.Name, v.Matches, v.Reason})
		if v.Matches {
			matched = i
		}
	}
	if matched < 0 {
		e.Fails, e.Error = true, errNoRoute.Error()
		return e
	}
	parts := d.routes[matched].parts()
	if e.Stuck = c.Sticky != "" && len(d.routes[matched].arms) > 1 && len(md.Get(c.Sticky)) > 0; e.Stuck {
		parts = map[*way]float64{d.choose(ctx, matched): 100}
	}
	outlooks := p.outlooks(ctx)
	planned := d.plan.routes[matched]
	e.Retry = planned.Retry
	stats := planned.stats(parts, d.health)
	for i, arm := range stats.Arms {
		one := ArmExplanation{Name: arm.Name, Weight: arm.Weight, Share: arm.Share, Empty: arm.Empty, Timeout: milliseconds(timeoutOf(planned.Route, planned.arms[i].Arm)), Targets: []TargetExplanation{}}
		for k, t := range arm.Targets {
			h := d.health[planned.arms[i].ways[k].Target]
			one.Targets = append(one.Targets, TargetExplanation{
				TargetStats: t, Failover: k > 0, Capacity: 100 * h.steady, Recovering: h.steady < h.present, Outlook: outlooks[t.ID],
			})
		}
		e.Arms = append(e.Arms, one)
	}
	return e
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// explainPlain adds the endpoints of plain discovery.
func (r *Router) explainPlain(ctx context.Context, e *Explanation) {
	arm := ArmExplanation{Weight: 100, Share: 100}
	target := TargetExplanation{TargetStats: TargetStats{Share: 100}, Capacity: 100}
	outlook, shown := r.window.Outlook(ctx)
	if e.Idle = !shown; shown {
		target.Outlook, target.Connected = &outlook, true
		target.Known = len(outlook.Endpoints)
		for _, one := range outlook.Endpoints {
			if one.Odds > 0 || one.State == balancer.OtherZone {
				target.Usable++
			}
		}
		arm.Empty = target.Usable == 0
	}
	arm.Targets = []TargetExplanation{target}
	e.Arms = append(e.Arms, arm)
}

// outlooks are those of the targets that have connections, by ID. Those of one destination share
// theirs.
func (p *policy) outlooks(ctx context.Context) map[string]*balancer.Outlook {
	all := map[string]*balancer.Outlook{}
	if p == nil {
		return all
	}
	type outlooker interface {
		Outlook(ctx context.Context) balancer.Outlook
	}
	found := map[string]outlooker{}
	p.calls.Lock()
	p.mu.Lock()
	for id, l := range p.byID {
		if l.current == nil {
			continue
		}
		if one, ok := l.current.balancer.(outlooker); ok {
			found[id] = one
		}
	}
	p.mu.Unlock()
	p.calls.Unlock()
	for id, one := range found {
		outlook := one.Outlook(ctx)
		all[id] = &outlook
	}
	return all
}

// PolicyOf is the name of the policy that a service-resolver of the latest chain asks for where at
// leads, "" where the channel's own picks.
func (r *Router) PolicyOf(at *attempt.Route) string {
	d := r.current.Load()
	if at == nil || d == nil || d.plan == nil {
		return ""
	}
	if lb := policiesOf(d.plan.chain)[at.Target]; lb != nil {
		return policyName(lb)
	}
	return ""
}
