package resolver

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/resolver/route"
)

// discovery is that of one target of a chain.
type discovery interface {
	comparable
	isReady() bool // there is an answer or an error
	republish()    // publish what is known again
	close()        // and wait
}

// planner holds the discovery of the targets of a chain, and of those of the next one until each
// has been answered for. Both share what they have in common.
type planner[D discovery] struct {
	patience time.Duration // with targets of a chain that are not answered for
	// open returns the key of a discovery, and what begins it. Without a chain it is that of the
	// service.
	open func(chain *route.Chain, of *route.Target, failover bool) (key string, begin func() D)

	parts   map[string]D // of current and next, by their keys
	current *plan[D]     // published; nil before the first
	next    *plan[D]     // becomes current once its parts have answers
}

// plan is a chain with the discovery of its targets.
type plan[D discovery] struct {
	chain *route.Chain // nil is plain discovery
	parts map[string]D // by the ID of the target; that of plain discovery is at ""
	since time.Time
}

// begin makes the plan of a chain the next one, unless it is or was.
func (r *planner[D]) begin(chain *route.Chain) {
	latest := cmp.Or(r.next, r.current)
	if latest != nil && latest.chain == chain {
		return
	}
	p := &plan[D]{chain: chain, parts: map[string]D{}, since: time.Now()}
	if chain == nil {
		p.parts[""] = r.part(nil, nil, false)
	} else {
		failover := withFailover(chain)
		for id, target := range chain.Targets {
			p.parts[id] = r.part(chain, target, failover[id])
		}
	}
	r.next = p
	r.drop()
}

// part returns the discovery of a target, which plans share.
func (r *planner[D]) part(chain *route.Chain, of *route.Target, failover bool) D {
	key, begin := r.open(chain, of, failover)
	p, ok := r.parts[key]
	if !ok {
		p = begin()
		r.parts[key] = p
	}
	return p
}

// withFailover are the IDs of the targets that others take over for.
func withFailover(chain *route.Chain) map[string]bool {
	ids := map[string]bool{}
	for _, route := range chain.Routes {
		for _, arm := range route.Arms {
			ids[arm.Target] = ids[arm.Target] || len(arm.Failover) > 0
		}
	}
	return ids
}

// forTarget are the settings for the discovery of a target of a chain.
func (s settings) forTarget(of *route.Target, failover bool) settings {
	s.warning = s.warning && !of.OnlyPassing
	if failover {
		s.panic.threshold = 0 // others take over before unhealthy instances are called
	}
	return s
}

// drop closes the parts that no plan has.
func (r *planner[D]) drop() {
	used := map[D]bool{}
	for _, p := range []*plan[D]{r.current, r.next} {
		if p == nil {
			continue
		}
		for _, one := range p.parts {
			used[one] = true
		}
	}
	for key, p := range r.parts {
		if !used[p] {
			delete(r.parts, key)
			p.close()
		}
	}
}

// advance makes the next plan current once each of its targets has been answered for, or a chain
// has waited for its patience. It returns when to try again; 0 is with the next answer.
func (r *planner[D]) advance() (again time.Duration) {
	if r.next == nil {
		return 0
	}
	left := r.patience - time.Since(r.next.since)
	for _, p := range r.next.parts {
		switch {
		case p.isReady():
		case r.next.chain == nil:
			return 0 // it reports an error by itself
		case left > 0:
			return left
		}
	}
	for _, p := range r.next.parts {
		p.republish()
	}
	r.current, r.next = r.next, nil
	r.drop()
	return 0
}

// chainPatience is how long after its start a channel or a site that could serve, by an earlier list
// or an answer, waits for its first chain. Then it serves by plain discovery until there is one.
const chainPatience = 200 * time.Millisecond

// awaitChain returns how much longer to wait for a first chain before plain discovery serves; 0 is
// no longer. v has no chain; starting is what is left of the start timeout.
func (r *planner[D]) awaitChain(v chainView, starting time.Duration) time.Duration {
	switch {
	case starting > 0 && !r.next.parts[""].isReady():
		return starting
	case v.err == nil:
		return max(0, starting-(r.patience-chainPatience))
	default:
		return 0
	}
}

// runUpdates calls update at the start, whenever it is woken, and when the last call has asked for
// it, until ctx ends. starting is what is left of the patience.
func (r *planner[D]) runUpdates(ctx context.Context, wake <-chan struct{}, update func(starting time.Duration) (again time.Duration)) {
	started := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	r.begin(nil) // at the same time as the chain is asked for
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-timer.C:
		}
		timer.Stop()
		if again := update(r.patience - time.Since(started)); again > 0 {
			timer.Reset(again)
		}
	}
}

// closeParts ends all discovery, and waits.
func (r *planner[D]) closeParts() {
	var parts sync.WaitGroup
	for _, p := range r.parts {
		parts.Go(p.close)
	}
	parts.Wait()
}
