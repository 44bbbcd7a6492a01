package balancer

import (
	"sync/atomic"

	"google.golang.org/grpc/balancer"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// picker is what gRPC picks from: the policy's choice, and before it what no policy
// needs to know of.
type picker struct {
	view     View
	chooser  Chooser
	measures bool         // every attempt is measured, as the policy needs it
	paid     atomic.Int32 // how many of view.due had their call
}

// Pick allocates nothing, and takes no lock but for a call that an endpoint must have:
// a probe, or the first of a slow start.
func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	record := attempt.FromContext(info.Ctx)
	if record != nil {
		record.Choose(len(p.view.Ready) + len(p.view.refusing) + len(p.view.elsewhere))
		if avoid := record.Avoids(); avoid != nil {
			return p.pickAround(info, record, avoid)
		}
	}
	if record != nil && record.Number() > 1 {
		if r := p.untried(record); r != nil {
			return r.pick(info, record, p.measures, 0)
		}
	}
	if len(p.view.due) > 0 {
		if r, lease := p.nextDue(nil); r != nil {
			return r.pick(info, record, p.measures, lease)
		}
	}
	return p.view.fair(p.chooser.Choose()).pick(info, record, p.measures, 0)
}

// nextDue is an endpoint that must have a call now, or nil, and the lease of a probe.
// One that is to be avoided waits for the next picker.
func (p *picker) nextDue(avoid *attempt.Avoid) (*Ready, lease) {
	for int(p.paid.Load()) < len(p.view.due) {
		n := int(p.paid.Add(1))
		if n > len(p.view.due) {
			return nil, 0
		}
		r := &p.view.due[n-1]
		if avoid != nil && avoid.Held(&r.Instance) > 0 {
			continue
		}
		if lease, owed := r.table.owes(r.Endpoint); owed {
			return r, lease
		}
	}
	return nil, 0
}

// maxLook bounds the endpoints that are compared for a retry.
const maxLook = 16

// untried is the least loaded endpoint that no earlier attempt of the call went to:
// in rotation, else one that refuses, else of another zone, else an ejected one. Nil is none.
func (p *picker) untried(record *attempt.Record) *Ready {
	for _, ready := range [][]Ready{p.view.Ready, p.view.refusing, p.view.elsewhere, p.view.ejected} {
		if best := leastOf(ready, record, p.view.Random); best != nil {
			return best
		}
	}
	return nil
}

func leastOf(ready []Ready, record *attempt.Record, random func() uint64) (best *Ready) {
	if len(ready) == 0 {
		return nil
	}
	start := int(random() % uint64(len(ready)))
	for looked, i := 0, 0; i < len(ready) && looked < maxLook; i++ {
		r := &ready[(start+i)%len(ready)]
		if record.Tried(r.Address) {
			continue
		}
		if looked++; best == nil || r.Load()*int64(best.Weight) < best.Load()*int64(r.Weight) {
			best = r
		}
	}
	return best
}
