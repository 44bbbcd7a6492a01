package routes_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/internal/balancertest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	method   = "/grpc.testing.TestService/UnaryCall"
	policies = `{"child": [{"meshlite_round_robin": {"slowStart": {"window": "0s"}}}]}`
)

var success = grpcbalancer.DoneInfo{BytesSent: true, BytesReceived: true}

// group is a target of a test: endpoints from the index first on.
type group struct {
	id            string
	first, listed int
	known         int // 0 is as many as listed
	policy        *route.LoadBalancer
}

// The groups of most tests.
var (
	v1    = group{id: "v1", first: 0, listed: 4}
	v2    = group{id: "v2", first: 100, listed: 4}
	other = group{id: "other", first: 200, listed: 4} // datacenter
)

func (g group) of(listed int) group { g.known, g.listed = max(g.known, g.listed), listed; return g }

// fleet is a channel with a chain.
type fleet struct {
	*balancertest.Channel
	t      testing.TB
	router *routes.Router
	tables map[string]*balancer.Table
	up     map[int]bool // endpoints whose connection is ready
	config string
}

func newFleet(t testing.TB, opts ...routes.Option) *fleet {
	t.Helper()
	router, err := routes.NewRouter(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{balancertest.New(t, routes.Name), t, router, map[string]*balancer.Table{}, map[int]bool{}, policies}
}

// set is what a resolver does.
func (f *fleet) set(chain *route.Chain, groups ...group) {
	f.t.Helper()
	f.router.Update(chain, nil)
	if err := f.UpdateResolver(f.config, f.state(chain, groups...)); err != nil && err != grpcbalancer.ErrBadResolverState {
		f.t.Fatal(err)
	}
}

func (f *fleet) state(chain *route.Chain, groups ...group) resolver.State {
	var targets []routes.TargetState
	for _, g := range groups {
		if f.tables[g.id] == nil {
			f.tables[g.id] = balancer.NewTable()
		}
		var instances []*catalog.Instance
		for i := range g.listed {
			address := balancertest.Address(g.first + i)
			instances = append(instances, &catalog.Instance{ID: address, Address: address, Weight: 1})
		}
		state := balancer.WithTable(balancertest.StateOf(instances...), f.tables[g.id])
		if g.listed == 0 {
			state = balancer.WithReason(state, errors.New(g.id+" has no healthy instance"))
		}
		t := routes.TargetState{ID: g.id, State: state, Known: g.known, Policy: g.policy}
		if chain != nil {
			t.Target = chain.Targets[g.id]
		}
		targets = append(targets, t)
	}
	return routes.WithTargets(resolver.State{}, chain, targets, f.router)
}

// ready makes all connections of groups.
func (f *fleet) ready(groups ...group) {
	f.t.Helper()
	for _, g := range groups {
		for i := g.first; i < g.first+g.listed; i++ {
			if !f.up[i] {
				f.Connect(i, connectivity.Ready)
				f.up[i] = true
			}
		}
	}
}

// down ends connections, and attempts to make others.
func (f *fleet) down(endpoints ...int) {
	f.t.Helper()
	for _, i := range endpoints {
		f.Break(i)
		f.up[i] = false
	}
}

// back makes them again.
func (f *fleet) back(endpoints ...int) {
	f.t.Helper()
	for _, i := range endpoints {
		f.Reconnect(i)
		f.up[i] = true
	}
}

// call is what an interceptor and gRPC do for one call. The result is the endpoint's index.
func (f *fleet) call(ctx context.Context) (int, *attempt.Record, error) {
	record := attempt.New()
	_, at, err := f.router.Choose(ctx, method)
	if err != nil {
		return 0, record, err
	}
	record.SetRoute(at)
	i, err := f.try(ctx, record)
	return i, record, err
}

func (f *fleet) try(ctx context.Context, record *attempt.Record) (int, error) {
	result, err := f.Picker().Pick(grpcbalancer.PickInfo{FullMethodName: method, Ctx: attempt.NewContext(ctx, record)})
	if err != nil {
		return 0, err
	}
	if result.Done != nil {
		result.Done(success)
	}
	return balancertest.IndexOf(result), nil
}

// shares are the parts of calls that groups of a hundred endpoints get, by their first index.
func (f *fleet) shares(calls int) map[int]float64 {
	f.t.Helper()
	counts, parts := map[int]int{}, map[int]float64{}
	for range calls {
		i, _, err := f.call(context.Background())
		if err != nil {
			f.t.Fatalf("a call fails: %v", err)
		}
		counts[i/100*100]++
	}
	for first, n := range counts {
		parts[first] = float64(n) / float64(calls)
	}
	return parts
}

// wantShares fails unless each group has its share within tolerance.
func (f *fleet) wantShares(calls int, tolerance float64, want map[int]float64) {
	f.t.Helper()
	got := f.shares(calls)
	for _, first := range []int{0, 100, 200, 300} {
		if diff := got[first] - want[first]; diff > tolerance || diff < -tolerance || want[first] == 0 && got[first] != 0 {
			f.t.Errorf("endpoints from %d on have %.4f of %d calls, want %.4f within %.4f (all %v)", first, got[first], calls, want[first], tolerance, got)
		}
	}
}

// settle lets the timers run that are due.
func settle() {
	time.Sleep(time.Microsecond)
	synctest.Wait()
}

func target(id string) *route.Target {
	t := &route.Target{ID: id, Service: "catalog", Subset: id, Datacenter: "dc1"}
	if id == "other" {
		t.Subset, t.Datacenter = "", "dc2"
	}
	return t
}

// chainOf makes a chain of one route.
func chainOf(arms ...*route.Arm) *route.Chain {
	c := &route.Chain{
		Service: "catalog", Datacenter: "dc1", Targets: map[string]*route.Target{},
		Routes: []*route.Route{{Name: "default", Arms: arms}},
	}
	for _, a := range arms {
		for _, id := range append([]string{a.Target}, a.Failover...) {
			c.Targets[id] = target(id)
		}
	}
	return c
}

func arm(id string, weight float64, failover ...string) *route.Arm {
	return &route.Arm{Name: id, Weight: weight, Target: id, Failover: failover}
}

func with(key, value string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), key, value)
}

var ended = grpcbalancer.DoneInfo{Err: status.Error(codes.Unavailable, "ended"), BytesSent: true}
