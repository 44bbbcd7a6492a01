package consul_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/internal/faultproxy"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// R15: stale, cached, streaming and filtered reads lead to the same final state.
// Cached reads are streaming ones where the agent knows these, as it does by
// default.
func TestAllWaysToReadLeadToTheSameState(t *testing.T) {
	queries := map[string]catalog.Query{
		"stale":      {Service: "catalog"},
		"consistent": {Service: "catalog", Consistency: catalog.Consistent},
		"cached":     {Service: "catalog", Consistency: catalog.Cached},
	}
	onEveryAgent(t, func(t *testing.T, a agent) {
		d := asked{dial(t, a, consul.Config{})}
		all := map[string]*reports{}
		for name, q := range queries {
			all[name] = watch(d, q)
			defer all[name].stop()
		}
		if !strings.HasSuffix(t.Name(), "stand-in") { // which knows no filters
			all["filtered"] = watch(d, catalog.Query{Service: "catalog", Filter: `Service.Meta.version == "2"`})
			defer all["filtered"].stop()
		}
		var leases []catalog.Lease
		register := func(id, version string) {
			r := instance(id, serveHealth(t))
			r.Metadata = map[string]string{"version": version}
			leases = append(leases, mustRegister(t, d.Directory, r))
		}
		for _, id := range []string{"catalog-1", "catalog-2", "catalog-3"} {
			register(id, "2")
		}
		if err := leases[1].Deregister(t.Context()); err != nil {
			t.Fatal(err)
		}
		register("catalog-4", "2")
		want := d.mustEntries(t)
		for name, r := range all {
			s := r.await(t, want...)
			for _, i := range s.Instances {
				if i.Metadata["version"] != "2" || i.Weight != 1 || i.Status != catalog.Passing {
					t.Errorf("%s: the instance is %+v", name, i)
				}
			}
		}
	})
}

// asked is a directory that also lists.
type asked struct{ *consul.Directory }

// mustEntries are the addresses of all instances of catalog.
func (d asked) mustEntries(t *testing.T) []string {
	t.Helper()
	entries, err := d.Entries(t.Context(), catalog.Query{Service: "catalog"})
	if err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, e := range entries {
		addresses = append(addresses, e.Address)
	}
	slices.Sort(addresses)
	return addresses
}

func TestConsistencyIsAskedFor(t *testing.T) {
	for c, parameter := range map[catalog.Consistency]string{catalog.Stale: "stale", catalog.Consistent: "consistent", catalog.Cached: "cached"} {
		synctest.Test(t, func(t *testing.T) {
			agent := consultest.New()
			defer agent.Close()
			defer watch(newDirectory(t, agent, consul.Config{}), catalog.Query{Service: "catalog", Consistency: c}).stop()
			synctest.Wait()
			for _, q := range agent.Queries() {
				if !strings.Contains(q.RawQuery, parameter) {
					t.Errorf("%v asks %s", c, q.RawQuery)
				}
			}
		})
	}
}

func TestAWrongFilterIsToldWithTheFix(t *testing.T) {
	d, err := consul.New(consul.Config{Address: startConsul(t).Address, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, filter := range []string{"Nope == 1", "Service.Meta.version =="} {
		r := watch(d, catalog.Query{Service: "catalog", Filter: filter})
		<-r.news
		r.stop()
		err := r.lastError()
		if err == nil || !strings.Contains(err.Error(), filter) || !strings.Contains(err.Error(), "Service.Meta.version ==") {
			t.Errorf("the filter %q is answered by %v", filter, err)
		}
	}
}

// R2, for real: an agent that was killed and came back empty has low indexes.
func TestWatchOutlivesARestart(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{Wait: 2 * time.Second, Heartbeat: time.Second})
		r := watch(d, catalog.Query{Service: "catalog"})
		defer r.stop()
		one, two := serveHealth(t), serveHealth(t)
		mustRegister(t, d, instance("catalog-1", one))
		r.await(t, one)
		a.restart(t)
		mustRegister(t, d, instance("catalog-2", two))
		r.await(t, one, two)
	})
}

// An agent that is frozen accepts connections and answers nothing.
func TestWatchOutlivesAFrozenAgent(t *testing.T) {
	real := startConsul(t)
	d := dial(t, agent{address: real.Address}, consul.Config{Wait: time.Second})
	r := watch(d, catalog.Query{Service: "catalog"})
	defer r.stop()
	one, two := serveHealth(t), serveHealth(t)
	mustRegister(t, d, instance("catalog-1", one))
	r.await(t, one)
	if err := real.Freeze(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(8 * time.Second) // longer than the query that was open may last
	if err := real.Thaw(); err != nil {
		t.Fatal(err)
	}
	mustRegister(t, d, instance("catalog-2", two))
	r.await(t, one, two)
	if err := r.lastError(); err == nil || !strings.Contains(err.Error(), "in time") {
		t.Errorf("the frozen agent was told as %v", err)
	}
}

// A connection that dies in silence, as behind a firewall that has forgotten it,
// costs one query.
func TestWatchOutlivesADeadConnection(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		proxy, err := faultproxy.Listen(a.address)
		if err != nil {
			t.Fatal(err)
		}
		defer proxy.Close()
		direct := dial(t, a, consul.Config{})
		r := watch(dial(t, agent{address: proxy.Address()}, consul.Config{Wait: time.Second}), catalog.Query{Service: "catalog"})
		defer r.stop()
		one, two := serveHealth(t), serveHealth(t)
		mustRegister(t, direct, instance("catalog-1", one))
		r.await(t, one)
		proxy.Blackhole()
		mustRegister(t, direct, instance("catalog-2", two))
		proxy.Heal() // for new connections; those that were open stay dead
		r.await(t, one, two)
	})
}
