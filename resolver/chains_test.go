package resolver

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/balancer/routes"
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

// A channel to one subset has one route, which is the subset of the own datacenter if there is one.
func TestAChainOfOneSubset(t *testing.T) {
	target := func(id, service, subset, datacenter string) *route.Target {
		return &route.Target{ID: id, Service: service, Subset: subset, Datacenter: datacenter, Filter: subset}
	}
	chain := &route.Chain{Service: "catalog", Datacenter: "dc1", Index: 7, Sticky: "x-user", Targets: map[string]*route.Target{}}
	for _, one := range []*route.Target{
		target("a", "catalog", "v2", "dc2"), target("b", "catalog", "v2", "dc1"), target("c", "catalog", "v1", "dc1"),
		target("d", "candy", "v3", "dc1"), target("f", "catalog", "v4", "dc3"), target("e", "catalog", "v4", "dc2"), target("g", "catalog", "", "dc1"),
	} {
		chain.Targets[one.ID] = one
	}
	for subset, want := range map[string]string{"v1": "c", "v2": "b", "v3": "", "v4": "e", "v5": ""} {
		got := subsetChain(chain, subset)
		if want == "" {
			if got != nil {
				t.Errorf("%s: %+v, want none", subset, got)
			}
			continue
		}
		if got == nil || got.Check() != nil || len(got.Targets) != 1 || got.Targets[want] != chain.Targets[want] || got.Sticky != "" || got.Index != 7 {
			t.Errorf("%s: %+v, %v, want the target %s", subset, got, got.Check(), want)
		}
	}
	if err := Validate(WithChainSubset("v2")); err == nil {
		t.Error("a subset without routes is accepted")
	}
}

// The last chain that had the subset stays in use.
func TestTheLastChainOfASubsetStaysInUse(t *testing.T) {
	with := &route.Chain{Service: "catalog", Targets: map[string]*route.Target{"v2": {ID: "v2", Service: "catalog", Subset: "v2"}}}
	without := &route.Chain{Service: "catalog"}
	builder := &Builder{}
	builder.chainSubset = "v2"
	router, err := routes.NewRouter()
	if err != nil {
		t.Fatal(err)
	}
	builder.router = router
	r := &routedResolver{builder: builder, target: Target{Service: "catalog"}}
	for i, step := range []struct {
		view           chainView
		starting       time.Duration
		answered, last bool // whether the chain of the subset is in use
		refused        string
	}{
		{chainView{}, 1, false, false, ""},
		{chainView{}, 0, true, false, "has not been read"},
		{chainView{err: errors.New("403")}, 0, true, false, "403"},
		{chainView{answered: true}, 1, true, false, "has no discovery chain"},
		{chainView{answered: true, chain: without}, 1, true, false, "has no subset"},
		{chainView{answered: true, chain: without}, 1, true, false, "has no subset"},
		{chainView{answered: true, chain: with}, 1, true, true, ""},
		{chainView{answered: true, chain: with, refused: errors.New("PrefixRewrite")}, 1, true, true, "PrefixRewrite"},
		{chainView{answered: true, chain: without}, 1, true, true, "has no subset"},
		{chainView{answered: true}, 1, true, true, "has no discovery chain"},
		{chainView{answered: true, chain: with}, 1, true, true, ""},
	} {
		got := r.narrow(step.view, step.starting)
		if got.answered != step.answered || (got.chain != nil) != step.last || (got.refused == nil) != (step.refused == "") ||
			got.refused != nil && !strings.Contains(got.refused.Error(), step.refused) {
			t.Errorf("step %d: %+v", i, got)
		}
	}
}

// A channel that was idle keeps the chain that it had while the directory does not answer, for as
// long as that takes: without it, calls would go on by instances that are not updated any more.
func TestTheChainOfASubsetLastsWhileAChannelIsIdle(t *testing.T) {
	chain := &route.Chain{
		Service: "catalog", Datacenter: "dc1",
		Routes:  []*route.Route{{Name: "default", Arms: []*route.Arm{{Name: "v2", Weight: 100, Target: "v2"}}}},
		Targets: map[string]*route.Target{"v2": {ID: "v2", Service: "catalog", Subset: "v2", Datacenter: "dc1"}},
	}
	router, err := routes.NewRouter()
	if err != nil {
		t.Fatal(err)
	}
	router.Update(chain, nil)
	if router.Chain() != chain {
		t.Fatalf("the router has no chain: %v", chain.Check())
	}
	builder := &Builder{}
	builder.chainSubset, builder.router = "v2", router
	r := &routedResolver{builder: builder, target: Target{Service: "catalog"}}
	if got := r.narrow(chainView{err: errors.New("connection refused")}, 0); got.answered || got.refused != nil {
		t.Errorf("after the start timeout the chain is %+v, want that of before", got)
	}
}
