package resolver

import (
	"testing"

	"github.com/meshlite-go/meshlite/resolver/route"
)

// A blocking query ends every minute without a change: channels must not do anything then.
func TestAChainThatSaysTheSameStaysInUse(t *testing.T) {
	chain := func(index uint64, weight float64) *route.Chain {
		return &route.Chain{Service: "catalog", Datacenter: "dc1", Index: index,
			Routes:  []*route.Route{{Name: "default", Arms: []*route.Arm{{Name: "v1", Weight: weight, Target: "v1"}, {Name: "v2", Weight: 100 - weight, Target: "v1"}}}},
			Targets: map[string]*route.Target{"v1": {ID: "v1", Service: "catalog", Datacenter: "dc1"}}}
	}
	w := &chainWatch{}
	first, second := chain(1, 90), chain(3, 80)
	for _, step := range []struct{ reported, want *route.Chain }{{first, first}, {chain(1, 90), first}, {chain(2, 90), first}, {second, second}, {nil, nil}, {first, first}} {
		w.report(step.reported, nil)
		if got := w.view(); !got.answered || got.chain != step.want {
			t.Errorf("in use is %+v, want %+v", got.chain, step.want)
		}
	}
}
