package consul_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/internal/faultproxy"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// R15: stale, cached, streaming and filtered reads lead to the same final state.
// A real agent streams what blocks, unless it is asked to be consistent.
//
// Case R15: Stale, cached, streaming and filtered reads end alike; a real agent answers by the
// ways that are meant.
func TestAllWaysToReadLeadToTheSameState(t *testing.T) {
	onPlainAgents(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{})
		all := map[string]*reports{}
		ways := map[catalog.Consistency]*backends{}
		simulated := strings.HasSuffix(t.Name(), "simulated") // which has no streams
		for _, c := range []catalog.Consistency{catalog.Stale, catalog.Consistent, catalog.Cached} {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			ways[c] = &backends{RoundTripper: transport, seen: map[string]bool{}}
			d := dial(t, a, consul.Config{Transport: ways[c]})
			all[c.String()] = watch(d, catalog.Query{Service: "catalog", Consistency: c})
			all["filtered "+c.String()] = watch(d, catalog.Query{Service: "catalog", Consistency: c, Filter: `Service.Meta.version == "2"`})
		}
		for _, r := range all {
			defer r.stop()
			r.awaitNews(t, 0) // nothing yet: what follows comes by the way that is tried
		}
		versions := map[string]string{}
		register := func(id, version string) catalog.Lease {
			r := instance(id, serveHealth(t))
			r.Metadata = map[string]string{"version": version}
			versions[r.Address] = version
			return mustRegister(t, d, r)
		}
		register("catalog-1", "1")
		register("catalog-2", "2")
		gone := register("catalog-3", "2")
		register("catalog-4", "2")
		if err := gone.Deregister(t.Context()); err != nil {
			t.Fatal(err)
		}
		entries, err := d.Entries(t.Context(), catalog.Query{Service: "catalog"})
		if err != nil || len(entries) != 3 {
			t.Fatalf("%v, %v", entries, err)
		}
		for name, r := range all {
			var want []string
			for _, e := range entries {
				if versions[e.Address] == "2" || !strings.HasPrefix(name, "filtered") {
					want = append(want, e.Address)
				}
			}
			for _, i := range r.await(t, want...).Instances {
				if i.Metadata["version"] != versions[i.Address] || i.Weight != 1 || i.Status != catalog.Passing {
					t.Errorf("%s: the instance is %+v", name, i)
				}
			}
		}
		for c, way := range ways {
			if streamed := way.has("streaming"); !simulated && streamed == (c == catalog.Consistent) {
				t.Errorf("%v reads are streamed: %v", c, streamed)
			}
		}
	})
}

// backends notes how a real agent has come by its answers.
type backends struct {
	http.RoundTripper
	mu   sync.Mutex
	seen map[string]bool
}

func (b *backends) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.RoundTripper.RoundTrip(request)
	if err == nil && strings.HasPrefix(request.URL.Path, "/v1/health/service/") {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.seen[response.Header.Get("X-Consul-Query-Backend")] = true
	}
	return response, err
}

func (b *backends) has(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen[name]
}

// Consul answers from a stream, of unknown age, also when it is asked to
// be consistent, and calls the answer consistent.
//
// Case R15
func TestOnlyConsistentReadsAreNotStreamed(t *testing.T) {
	address := agenttest.Start(t).Address
	for _, c := range []catalog.Consistency{catalog.Stale, catalog.Consistent, catalog.Cached} {
		transport := &http.Transport{}
		b := &backends{RoundTripper: transport, seen: map[string]bool{}}
		d := dial(t, agent{address: address}, consul.Config{Transport: b, Wait: time.Second})
		r := watch(d, catalog.Query{Service: "catalog", Consistency: c})
		r.awaitNews(t, 1) // the first that may block
		r.stop()
		transport.CloseIdleConnections()
		if b.seen["streaming"] == (c == catalog.Consistent) {
			t.Errorf("%v reads come from %v", c, b.seen)
		}
	}
}

// Case R15
func TestConsistencyIsAskedFor(t *testing.T) {
	for c, parameter := range map[catalog.Consistency]string{catalog.Stale: "stale", catalog.Consistent: "consistent", catalog.Cached: "cached"} {
		synctest.Test(t, func(t *testing.T) {
			agent := consultest.New()
			defer agent.Close()
			register(t, agent, "catalog-1", 1)
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

// Case R15
func TestTheErrorOfAWrongFilterHasTheFix(t *testing.T) {
	onPlainAgents(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{})
		for _, c := range []catalog.Consistency{catalog.Stale, catalog.Consistent, catalog.Cached} {
			for _, filter := range []string{"Nope == 1", "Service.Meta.version ==", `Service.Port == "x"`, "((", `Service.Tags == "x"`} {
				r := watch(d, catalog.Query{Service: "catalog", Filter: filter, Consistency: c})
				<-r.news
				r.stop()
				err := r.lastError()
				if err == nil || !strings.Contains(err.Error(), "filter `"+filter+"`") || !strings.Contains(err.Error(), "Service.Meta.version ==") {
					t.Errorf("the filter %q is answered to %v reads by %v", filter, c, err)
				}
			}
		}
	})
}

// R16, from a cache, which hides that something is hidden.
//
// Case R16
func TestWhatACLsHideIsAnErrorHoweverItIsRead(t *testing.T) {
	a := startSecured(t)
	client := a.operator(t)
	if err := client.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "catalog", Port: 1}); err != nil {
		t.Fatal(err)
	}
	weak, _, err := client.ACL().TokenCreate(&api.ACLToken{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := dial(t, a, consul.Config{Token: weak.SecretID})
	for _, c := range []catalog.Consistency{catalog.Stale, catalog.Consistent, catalog.Cached} {
		r := watch(d, catalog.Query{Service: "catalog", Consistency: c})
		<-r.news
		r.stop()
		if err := r.lastError(); err == nil || !strings.Contains(err.Error(), "service:read") {
			s, _ := r.last()
			t.Errorf("%v reads return %v and the error %v, want one that says what the token lacks", c, addressesOf(s), err)
		}
	}
}

// R2, for real: an agent that was killed and came back empty has low indexes.
//
// Case R2
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

// An agent that is stalled accepts connections and answers nothing.
//
// Case R4
func TestWatchOutlivesAStalledAgent(t *testing.T) {
	real := agenttest.Start(t)
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
		t.Errorf("the stalled agent was reported as %v", err)
	}
}

// A connection that dies in silence, as behind a firewall that has forgotten it,
// costs one query.
//
// Case R4
func TestWatchOutlivesADeadConnection(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		proxy, err := faultproxy.Listen(a.address)
		if err != nil {
			t.Fatal(err)
		}
		defer proxy.Close()
		direct := dial(t, a, consul.Config{})
		r := watch(dial(t, a.at(proxy.Address()), consul.Config{Wait: time.Second}), catalog.Query{Service: "catalog"})
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
