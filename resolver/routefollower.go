package resolver

import (
	"fmt"
	"time"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// routeFollower follows a chain and its targets for one reader. Its goroutine alone touches it.
type routeFollower struct {
	builder *Builder
	query   catalog.Query
	changed func(routes.Snapshot)
	chain   *chainWatch
	wake    chan struct{}
	planner[*followed]
	failed bool // reported
}

// followed is the discovery of a target.
type followed struct{ *subscription }

func (f *followed) isReady() bool {
	v := f.view()
	return v.believed || len(v.earlier) > 0 || v.err != nil
}

func (f *followed) republish() {} // all is, each time

func (f *followed) close() { f.subscription.close() }

// openPart returns what discovers a target, and its key.
func (f *routeFollower) openPart(chain *route.Chain, of *route.Target, failover bool) (string, func() *followed) {
	q, settings := f.query, f.builder.settings
	if chain != nil {
		q, settings = targetQuery(q, chain, of), settings.forTarget(of, failover)
		q.Warning = q.Warning && !of.OnlyPassing
	}
	return fmt.Sprint(q.Key(), settings.panic), func() *followed {
		return &followed{f.builder.watches.subscribe(f.builder.directory, q, settings, f.wake)}
	}
}

// targetQuery is how the instances of a chain's target are found: as those of q, in the target's
// datacenter and by its filter.
func targetQuery(q catalog.Query, chain *route.Chain, of *route.Target) catalog.Query {
	if of.Service != q.Service {
		q.Service, q.Tags = of.Service, nil // tags are of the service that q names
	}
	if of.Datacenter != chain.Datacenter {
		q.Datacenter = of.Datacenter
	}
	q.Filter = bothFilters(q.Filter, of.Filter)
	return q
}

// update follows the chain and reports what may have changed; starting is what is left of the
// start timeout. It returns when to update again without being woken; 0 is never.
func (f *routeFollower) update(starting time.Duration) time.Duration {
	v := f.chain.view()
	switch {
	case v.answered && v.chain == nil && v.refused != nil:
		if f.current == nil {
			if !f.failed {
				f.failed = true
				f.changed(routes.Snapshot{Err: v.refused, Failed: true})
			}
			return 0
		}
	case v.answered:
		f.begin(v.chain)
	case f.current == nil:
		if again := f.awaitChain(v, starting); again > 0 {
			return again
		}
	}
	again := f.advance()
	if f.current == nil {
		return again
	}
	snapshot := routes.Snapshot{Chain: f.current.chain, Err: v.refused}
	for id, p := range f.current.parts {
		v := p.view()
		list := v.earlier
		if v.believed {
			list = v.all()
		}
		if f.current.chain == nil && !v.believed && len(list) == 0 {
			return soonest(again, v.again) // nothing is known
		}
		snapshot.Targets = append(snapshot.Targets, routes.Target{ID: id, Instances: list, Known: v.known(len(list))})
		again = soonest(again, v.again)
	}
	f.failed = false
	f.changed(snapshot)
	return again
}
