package routes_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/internal/balancertest"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// wantConnections fails unless so many were opened and closed.
func (f *fleet) wantConnections(opened, closed int) {
	f.t.Helper()
	if o, c := f.Connections(); o != opened || c != closed {
		f.t.Errorf("%d connections were opened and %d closed, want %d and %d", o, c, opened, closed)
	}
}

// renamed has other IDs for the same targets: IDs are valid within one chain.
func renamed(c *route.Chain, suffix string) *route.Chain {
	targets := map[string]*route.Target{}
	for id, t := range c.Targets {
		copied := *t
		copied.ID += suffix
		targets[id+suffix] = &copied
	}
	c.Targets = targets
	for _, r := range c.Routes {
		for _, a := range r.Arms {
			a.Target += suffix
			for i := range a.Failover {
				a.Failover[i] += suffix
			}
		}
	}
	return c
}

func (g group) renamed(suffix string) group { g.id += suffix; return g }

// Case T5: A changed chain opens and closes no connection of a target that both have.
func TestAChangedChainKeepsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.set(chainOf(arm("v1", 90), arm("v2", 10)), v1, v2)
		f.ready(v1, v2)
		f.wantConnections(8, 0)
		// Weights, names, order and IDs change.
		for i := range 20 {
			weight := float64(5 * i)
			f.set(chainOf(arm("v2", 1+weight), arm("v1", 99-weight)), v2, v1)
			f.wantShares(1000, 0.01, map[int]float64{0: (99 - weight) / 100, 100: (1 + weight) / 100})
			f.tables["v1-x"], f.tables["v2-x"] = f.tables["v1"], f.tables["v2"]
			f.set(renamed(chainOf(arm("v1", 50), arm("v2", 50)), "-x"), v1.renamed("-x"), v2.renamed("-x"))
		}
		f.wantConnections(8, 0)
		// A third target appears, and the first has no calls any more.
		f.set(chainOf(arm("v1", 0), arm("v2", 50), arm("other", 50)), v1, v2, other)
		f.ready(other)
		f.wantConnections(12, 4)
		f.wantShares(1000, 0.01, map[int]float64{100: 0.5, 200: 0.5})
	})
}

// Case T5
func TestAnUpdateOfOneTargetTouchesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		chain := chainOf(arm("v1", 50), arm("v2", 50))
		f.set(chain, v1, v2)
		f.ready(v1, v2)
		f.set(chain, v1, v2.of(1))
		f.wantConnections(8, 3)
		for i := 101; i < 104; i++ {
			f.up[i] = false
		}
		f.set(chain, v1, v2)
		f.ready(v2)
		f.wantConnections(11, 3)
	})
}

// Targets of arms without weight are known, and not connected.
func TestTargetsWithoutCallsAreNotConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.set(chainOf(arm("v1", 100, "other"), arm("v2", 0)), v1, v2, other)
		f.ready(v1)
		f.wantConnections(4, 0)
		arms := f.router.Stats().Routes[0].Arms
		if known := arms[1].Targets[0]; known.Connected || known.Usable != 4 || known.Known != 4 {
			t.Errorf("the arm without weight is %+v, want 4 known instances, not connected", known)
		}
		if standby := arms[0].Targets[1]; standby.Connected || standby.Usable != 4 {
			t.Errorf("the failover target is %+v, want 4 known instances, not connected", standby)
		}
	})
}

// Calls that wait for the new target of a changed chain do not fail. A target that is failover now
// stays connected until the first is.
func TestAChangedChainSwapsInWithoutADroppedCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.set(chainOf(arm("v1", 100)), v1)
		f.ready(v1)
		_, before, err := f.router.Choose(context.Background(), method)
		if err != nil {
			t.Fatal(err)
		}
		f.set(chainOf(arm("v2", 100)), v2)
		record, queued := f.queue()
		if !queued {
			t.Error("a call does not wait for the new target")
		}
		late := attempt.New()
		late.SetRoute(before) // of a target that is not in the chain any more
		f.ready(v2)
		for name, r := range map[string]*attempt.Record{"that has waited": record, "of the chain before": late} {
			if i, err := f.try(context.Background(), r); err != nil || i/100 != 1 || r.Route().Arm != "v2" {
				t.Errorf("the call %s goes to %d by arm %q: %v", name, i, r.Route().Arm, err)
			}
		}
		f.set(chainOf(arm("v1", 100, "v2")), v1, v2)
		f.up = map[int]bool{100: true, 101: true, 102: true, 103: true}
		opened, closed := f.Connections()
		record, queued = f.queue()
		if _, now := f.Connections(); !queued || now != closed {
			t.Errorf("%d connections of the failover are closed before the target is ready, and a call waits: %v", now-closed, queued)
		}
		f.ready(v1)
		settle()
		if i, err := f.try(context.Background(), record); err != nil || i/100 != 0 {
			t.Errorf("the call that has waited goes to %d: %v", i, err)
		}
		f.wantShares(100, 0, map[int]float64{0: 1})
		f.wantConnections(opened, closed+4)
	})
}

// While the target of an arm is being connected its failover is not due, though another arm has
// it ready.
func TestAStartIsNoFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.set(chainOf(arm("v1", 90, "v2"), arm("v2", 10)), v1, v2)
		f.ready(v2)
		waiting := 0
		for range 100 {
			switch i, record, err := f.call(context.Background()); {
			case errors.Is(err, grpcbalancer.ErrNoSubConnAvailable):
				waiting++
			case err != nil || record.Route().Arm != "v2":
				t.Fatalf("a call goes to %d by arm %q: %v", i, record.Route().Arm, err)
			}
		}
		if waiting < 88 || waiting > 92 { // of any hundred draws of the sequence, two more or less
			t.Errorf("%d of 100 calls wait for the arm with 90 %%", waiting)
		}
		time.Sleep(1100 * time.Millisecond) // it cannot be reached
		settle()
		f.wantShares(100, 0, map[int]float64{100: 1})
		f.ready(v1)
		time.Sleep(routes.DefaultFailbackDelay)
		settle()
		f.wantShares(1000, 0.002, map[int]float64{0: 0.9, 100: 0.1})
	})
}

// A call that was sent to an arm before it lost its weight goes to another.
func TestACallOutlivesTheWeightOfItsArm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.set(chainOf(arm("v1", 0), arm("v2", 100)), v1, v2)
		f.ready(v2)
		_, at, err := f.router.Choose(context.Background(), method)
		if err != nil {
			t.Fatal(err)
		}
		f.set(chainOf(arm("v1", 100), arm("v2", 0)), v1, v2)
		f.ready(v1)
		late := attempt.New()
		late.SetRoute(at)
		if i, err := f.try(context.Background(), late); err != nil || i/100 != 0 || late.Route().Arm != "v1" {
			t.Errorf("the call goes to %d by arm %q: %v", i, late.Route().Arm, err)
		}
		f.set(chainOf(arm("v1", 50), arm("other", 50)), v1, other)
		f.ready(other)
		f.down(0, 1, 2, 3) // the target of the chain before is still there, and dead
		settle()
		if i, err := f.try(context.Background(), late.Next()); err != nil || i/100 != 2 || late.Latest().Route().Arm != "other" {
			t.Errorf("the retry goes to %d by arm %q: %v", i, late.Latest().Route().Arm, err)
		}
	})
}

// A resolver may name another policy while there is no chain. Then the first chain decides calls
// once its policy has a connection: the other one picks until then. When the policy is closed for
// another one, plain discovery is back.
func TestAFirstChainWaitsForItsPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		want := func(when, arm string) {
			t.Helper()
			choice, at, err := f.router.Choose(context.Background(), method)
			if err != nil || (at == nil) != (arm == "") || at != nil && choice.Arm.Name != arm {
				t.Errorf("%s the choice is %+v: %v", when, at, err)
			}
		}
		f.router.Update(nil, nil)
		want("without a chain", "")
		chain := chainOf(arm("v1", 100))
		f.router.Update(chain, nil)
		want("before its policy is there", "")
		f.set(chain, v1)
		want("before its policy is connected", "")
		f.ready(v1)
		want("with its policy", "v1")
		f.router.Update(nil, nil)
		want("before another policy is there", "v1")
		f.Policy.Close()
		want("with another policy", "")
		f.router.Update(nil, &route.RefusedError{Service: "catalog"})
		f.router.Update(nil, &route.RefusedError{Service: "catalog"})
		want("after a refused chain", "")
	})
}

// Case T16
func TestADeletedChainIsPlainDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		service := group{id: "service", first: 0, listed: 4}
		plain := func() { f.set(nil, service) }
		chain := chainOf(arm("service", 60), arm("v2", 40))
		chain.Targets["service"] = &route.Target{ID: "service", Service: "catalog", Datacenter: "dc1"}

		plain()
		f.ready(service)
		choice, at, err := f.router.Choose(context.Background(), method)
		if choice != (route.Choice{}) || at != nil || err != nil || f.router.Chain() != nil {
			t.Errorf("without a chain the choice is %v, %v, %v", choice, at, err)
		}
		f.wantShares(100, 0, map[int]float64{0: 1})

		early := attempt.New() // chosen before the chain
		f.set(chain, service, v2)
		f.ready(v2)
		f.wantShares(1000, 0.01, map[int]float64{0: 0.6, 100: 0.4})
		if _, err := f.try(context.Background(), early); err != nil || early.Route() == nil {
			t.Errorf("the call from before the chain has the route %v: %v", early.Route(), err)
		}
		late := attempt.New()
		_, at, _ = f.router.Choose(context.Background(), method)
		late.SetRoute(at)

		plain()
		f.wantShares(100, 0, map[int]float64{0: 1})
		if i, err := f.try(context.Background(), late); err != nil || i >= 100 || late.Route() != nil {
			t.Errorf("the call from before the deletion goes to %d, with the route %v: %v", i, late.Route(), err)
		}
		f.wantConnections(8, 4) // the target that is the service keeps its own
	})
}

// A policy that changes is connected before the one before it is closed.
func TestAChangedPolicyIsConnectedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		by := func(lb *route.LoadBalancer) {
			a := arm("v1", 100)
			a.LoadBalancer = lb
			g := v1
			g.policy = lb
			f.set(chainOf(a), g)
		}
		by(nil)
		f.ready(v1)
		f.wantConnections(4, 0)
		by(&route.LoadBalancer{Policy: "least_request", ChoiceCount: 5})
		f.wantConnections(8, 0)
		f.wantShares(100, 0, map[int]float64{0: 1})
		f.Connect(0, connectivity.Ready)
		settle()
		f.wantConnections(8, 4)
		f.wantShares(100, 0, map[int]float64{0: 1})
		// Another config of the same policy is no reason to connect.
		by(&route.LoadBalancer{Policy: "least_request", ChoiceCount: 4})
		f.wantConnections(8, 4)
		for _, lb := range []route.LoadBalancer{{Policy: "random"}, {Policy: "round_robin"}, {Policy: "maglev", HashKey: "x-customer"}} {
			by(&lb)
			f.Connect(0, connectivity.Ready)
			settle()
			f.wantShares(100, 0, map[int]float64{0: 1})
		}
		by(&route.LoadBalancer{Policy: "ring_hash", HashKey: "x-customer"}) // the same
		f.wantConnections(20, 16)
	})
}

// Case T7: last good chain kept; a first chain with a refused part fails calls clearly.
func TestARefusedChain(t *testing.T) {
	refused := &route.RefusedError{Service: "catalog", Parts: []string{"service-router catalog: PrefixRewrite"}}
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.router.Update(nil, refused)
		if err := f.router.Wait(context.Background(), connector(func() { t.Error("it is connected") })); err != nil {
			t.Error(err)
		}
		_, _, err := f.router.Choose(context.Background(), method)
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "PrefixRewrite") {
			t.Errorf("the error of a call is %v", err)
		}
		f.set(chainOf(arm("v1", 100)), v1)
		f.ready(v1)
		f.wantShares(100, 0, map[int]float64{0: 1})
		for _, update := range []func(){
			func() { f.router.Update(nil, refused) },
			func() { f.router.Update(nil, errors.New("no leader")) },
			func() { f.router.Update(&route.Chain{Service: "catalog"}, nil) },
		} {
			update()
			f.wantShares(100, 0, map[int]float64{0: 1})
			if stats := f.router.Stats(); stats.Error == "" || len(stats.Routes) != 1 {
				t.Errorf("stats after an error are %+v", stats)
			}
		}
		f.router.Update(f.router.Chain(), nil)
		if stats := f.router.Stats(); stats.Error != "" {
			t.Errorf("the error stays: %q", stats.Error)
		}
	})
}

// The last good chain comes together with the refusal of the latest where the resolver has missed it
// alone.
//
// Case T7
func TestARefusedChainBesideTheLastGoodOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		chain := chainOf(arm("v1", 100))
		f.router.Update(chain, &route.RefusedError{Service: "catalog", Parts: []string{"service-router catalog: PrefixRewrite"}})
		if choice, _, err := f.router.Choose(context.Background(), method); err != nil || choice.Route == nil {
			t.Errorf("a call goes by %v, %v, want the last good chain", choice, err)
		}
		if stats := f.router.Stats(); stats.Error == "" || len(stats.Routes) != 1 {
			t.Errorf("the stats are %+v, want the chain and what is refused", stats)
		}
	})
}

type connector func()

func (c connector) Connect() { c() }

// Wait connects the channel, and ends with the first chain or the context.
func TestWaitIsForTheFirstChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		router, err := routes.NewRouter()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		connected := 0
		cc := connector(func() { connected++ })
		if err := router.Wait(ctx, cc); status.Code(err) != codes.DeadlineExceeded || connected != 1 {
			t.Errorf("waiting ends with %v after %d connects", err, connected)
		}
		done := make(chan error)
		go func() { done <- router.Wait(context.Background(), cc) }()
		synctest.Wait()
		router.Update(nil, nil)
		if err := <-done; err != nil || connected != 2 {
			t.Errorf("waiting ends with %v after %d connects", err, connected)
		}
		if err := router.Wait(ctx, cc); err != nil || connected != 2 {
			t.Errorf("with a chain it waits: %v, %d connects", err, connected)
		}
	})
}

// A closed channel leaves the chain, of whose targets nothing is known.
func TestAnIdleChannelKeepsItsChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.set(chainOf(arm("v1", 50), arm("v2", 50)), v1, v2)
		f.ready(v1, v2)
		f.down(100, 101, 102, 103)
		settle()
		f.Policy.Close()
		arms := map[string]int{}
		for range 100 {
			choice, _, err := f.router.Choose(context.Background(), method)
			if err != nil {
				t.Fatal(err)
			}
			arms[choice.Arm.Name]++
		}
		if arms["v2"] < 45 || arms["v2"] > 55 {
			t.Errorf("an idle channel draws %v, want halves", arms)
		}
		f.Reopen()
		f.up = map[int]bool{}
		f.set(f.router.Chain(), v1, v2)
		f.ready(v1, v2)
		f.wantShares(1000, 0.01, map[int]float64{0: 0.5, 100: 0.5})
		var picked uint64
		for _, a := range f.router.Stats().Routes[0].Arms {
			picked += a.Targets[0].Picked
		}
		if picked != 1000 {
			t.Errorf("%d picks are counted, want those of all calls", picked)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	for field, opt := range map[string]routes.Option{
		"WithFailoverThreshold": routes.WithFailoverThreshold(0),
		"1.5":                   routes.WithFailoverThreshold(1.5),
		"WithFailbackDelay":     routes.WithFailbackDelay(-1),
	} {
		if _, err := routes.NewRouter(opt); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("the error about %s is %v", field, err)
		}
	}
	for text, want := range map[string]string{
		`{}`:                                   "no such policy",
		`{"child": [{"nope": {}}]}`:            "nope",
		`{"child": [{"meshlite_routes": {}}]}`: "no such policy",
		`{"child": [{"meshlite_least_request": {"choiceCount": 1}}]}`: "choiceCount",
		`{"child": [{"a": {}, "b": {}}]}`:                             "one policy in each",
		`{"child": 5}`:                                                "cannot unmarshal",
	} {
		c := balancertest.New(t, routes.Name)
		if err := c.Update(text, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error about the config %s is %v, want %q", text, err, want)
		}
	}
}

// Without a router and a chain the policy is its child.
func TestTheChildAloneServesPlainStates(t *testing.T) {
	c := balancertest.New(t, routes.Name)
	c.Ready(`{"child": [{"nope": {}}, {"meshlite_round_robin": {}}]}`, 1, 1, 1)
	counts := map[int]int{}
	for range 30 {
		result, err := c.Picker().Pick(pickInfo(context.Background()))
		if err != nil {
			t.Fatal(err)
		}
		counts[indexOf(result)]++
	}
	if counts[0] != 10 || counts[1] != 10 || counts[2] != 10 {
		t.Errorf("three endpoints get %v of 30 calls", counts)
	}
}
