package balancer

import (
	"time"

	"google.golang.org/grpc/balancer"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// draws is how often the policy is asked for an endpoint that may be picked, before all
// are compared.
const draws = 3

// pickAround picks an endpoint that is not to be avoided: one that must have a call, the
// policy's choice, or the least loaded. A retry goes where its call has not been yet, as
// long as there is such a one. Only calls that were refused of late come here.
func (p *picker) pickAround(info balancer.PickInfo, record *attempt.Record, avoid *attempt.Avoid) (balancer.PickResult, error) {
	if len(p.view.due) > 0 && record.Number() == 1 {
		if r, lease := p.nextDue(avoid); r != nil {
			return r.pick(info, record, p.measures, lease)
		}
	}
	for range draws {
		if r := p.view.fair(p.chooser.Choose()); !record.Tried(r.Address) && avoid.Held(&r.Instance) == 0 {
			return r.pick(info, record, p.measures, 0)
		}
	}
	best, shortest := p.allowed(record, avoid)
	if best == nil {
		return balancer.PickResult{}, avoid.All(shortest)
	}
	return best.pick(info, record, p.measures, 0)
}

// allowed is the least loaded endpoint that is not to be avoided: in rotation, else one that
// refuses, else of another zone, else one that was tried before. If there is none, shortest is when the
// first may be picked. Those that are ejected fail.
func (p *picker) allowed(record *attempt.Record, avoid *attempt.Avoid) (best *Ready, shortest time.Duration) {
	var again *Ready // tried before
	for _, ready := range [][]Ready{p.view.Ready, p.view.refusing, p.view.elsewhere} {
		start, looked := 0, 0
		if len(ready) > 0 {
			start = int(p.view.Random() % uint64(len(ready)))
		}
		for i := 0; i < len(ready) && looked < maxLook; i++ {
			r := &ready[(start+i)%len(ready)]
			left := avoid.Held(&r.Instance)
			switch {
			case left > 0:
				if shortest == 0 || left < shortest {
					shortest = left
				}
			case record.Tried(r.Address):
				again = r
			default:
				if looked++; best == nil || r.Load()*int64(best.Weight) < best.Load()*int64(r.Weight) {
					best = r
				}
			}
		}
		if best != nil {
			return best, 0
		}
	}
	return again, shortest
}
