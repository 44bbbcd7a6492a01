package routes

import (
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// picker picks the leaf of each attempt, which picks the endpoint. It is immutable; what is
// alive of its leaves is in them.
type picker struct {
	router *Router
	plain  *leaf // without a chain
	places map[*attempt.Route]*place
}

// place is a way with its leaf.
type place struct {
	*way
	leaf   *leaf // nil is a target that the resolver does not have
	others []*place
	past   bool // it is of the chain before
}

// gone reports whether calls that were sent here must be sent elsewhere by the chain of now.
func (to *place) gone() bool {
	if to.leaf == nil {
		return false
	}
	l := to.leaf.live.Load()
	return l == nil && !to.leaf.wanted.Load() || to.past && (l == nil || l.dead)
}

// newPicker makes the picker of the plan and the targets of p. Calls that were sent somewhere
// by the plan before go there if it still exists.
func newPicker(p *policy, before *plan) *picker {
	k := &picker{router: p.router, places: map[*attempt.Route]*place{}}
	if p.plan == nil {
		k.plain = p.byID[""]
		return k
	}
	for at, w := range p.plan.ways {
		k.places[at] = &place{way: w, leaf: p.byID[w.Target]}
	}
	for _, to := range k.places {
		for _, w := range to.way.others {
			to.others = append(to.others, k.places[&w.Route])
		}
	}
	if before != nil && before != p.plan {
		for at, w := range before.ways {
			if l := p.leaves[destinationOf(before.chain, w.choice.Target)]; l != nil {
				k.places[at] = &place{way: w, leaf: l, past: true}
			}
		}
	}
	return k
}

// Pick does not allocate beyond what the leaf does.
func (k *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	record := attempt.FromContext(info.Ctx)
	if k.plain != nil {
		if record != nil && record.Route() != nil {
			record.SetRoute(nil) // of the chain before
		}
		return k.plain.pick(info, record)
	}
	to, err := k.place(record, info)
	if err != nil {
		return balancer.PickResult{}, err
	}
	if other, wait := to.alternative(record); wait {
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	} else if other != nil {
		to = other
		if record != nil {
			record.SetRoute(&to.Route)
		}
	}
	result, err := to.leaf.pick(info, record)
	if err == nil {
		to.counts.picked.Add(1)
		if record != nil {
			record.SetCandidates(to.candidates())
		}
	}
	return result, err
}

// place is where an interceptor has sent the call, else where the router sends it: there is no
// interceptor, or the target is not in the chain any more.
func (k *picker) place(record *attempt.Record, info balancer.PickInfo) (*place, error) {
	var to *place
	if record != nil {
		to = k.places[record.Route()]
	}
	if to == nil || to.gone() {
		w, err := k.router.choose(info.Ctx, info.FullMethodName)
		if err != nil {
			return nil, err
		}
		if w == nil {
			return nil, balancer.ErrNoSubConnAvailable // the next picker is that of plain discovery
		}
		if to = k.places[&w.Route]; to == nil {
			return nil, balancer.ErrNoSubConnAvailable // the next picker has it
		}
		if record != nil {
			record.SetRoute(&w.Route)
		}
	}
	if to.leaf == nil {
		return nil, status.Errorf(codes.Unavailable, "target %q of the discovery chain has no instances yet", to.Target)
	}
	return to, nil
}

// alternative is where else an attempt goes when its target is dead, or a retry whose target has
// no untried endpoint. wait is that a target which takes over is being connected.
func (to *place) alternative(record *attempt.Record) (other *place, wait bool) {
	l := to.leaf.live.Load()
	retry := record != nil && record.Number() > 1
	dead := l == nil || l.dead
	if !dead && !(retry && !(l.ready && l.hasUntried(record, to.Target))) {
		return nil, false
	}
	for _, other := range to.others {
		if other.leaf == nil {
			continue
		}
		l := other.leaf.live.Load()
		if l != nil && l.ready && !l.dead && (!retry || l.hasUntried(record, other.Target)) {
			return other, false
		}
		if dead && other.leaf.wanted.Load() && (l == nil || !l.dead) {
			wait = true
		}
	}
	return nil, wait
}

// candidates are the endpoints that attempts of a call may go to.
func (to *place) candidates() (n int) {
	if l := to.leaf.live.Load(); l != nil {
		n = l.usable
	}
	for _, other := range to.others {
		if other.leaf == nil {
			continue
		}
		if l := other.leaf.live.Load(); l != nil && l.ready {
			n += l.usable
		}
	}
	return n
}

// pick picks an endpoint of the leaf. record is that of info.Ctx, or nil.
func (l *leaf) pick(info balancer.PickInfo, record *attempt.Record) (balancer.PickResult, error) {
	switch v := l.live.Load(); {
	case v == nil: // it is being built
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	case v.own != nil:
		return v.own.PickRecorded(info, record)
	default:
		return v.picker.Pick(info)
	}
}
