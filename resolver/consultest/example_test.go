package consultest_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// A test gives the code under test a client that reaches the agent without a socket.
func Example() {
	agent := consultest.New()
	defer agent.Close()
	_ = agent.Register(consultest.Service{ID: "catalog-1", Name: "catalog", Address: "10.0.0.1", Port: 8080})
	_ = agent.Register(consultest.Service{ID: "catalog-2", Name: "catalog", Address: "10.0.0.2", Port: 8080})
	_ = agent.SetStatus("catalog-2", consultest.HealthCritical)

	client, err := api.NewClient(&api.Config{HttpClient: &http.Client{Transport: agent.Transport()}})
	if err != nil {
		fmt.Println(err)
		return
	}
	entries, _, err := client.Health().Service("catalog", "", true, nil)
	for _, entry := range entries {
		fmt.Println(entry.Service.ID, entry.Service.Address, entry.Service.Port)
	}
	fmt.Println(err, len(agent.Queries()))
	// Output:
	// catalog-1 10.0.0.1 8080
	// <nil> 1
}

// An agent on a free port, for programs that take CONSUL_HTTP_ADDR and for curl.
func ExampleServer_Listen() {
	agent := consultest.New(consultest.WithDatacenter("east"))
	defer agent.Close()
	addr, err := agent.Listen("127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := api.NewClient(&api.Config{Address: addr})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(client.Catalog().Datacenters())
	// Output: [east] <nil>
}

// How does a client take a Consul that answers 500?
func ExampleServer_Intercept() {
	agent := consultest.New()
	defer agent.Close()
	agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		http.Error(w, "No cluster leader", http.StatusInternalServerError)
		return true
	})
	client := &http.Client{Transport: agent.Transport()}
	res, err := client.Get("http://consul/v1/health/service/catalog")
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = res.Body.Close()
	fmt.Println(res.Status)
	// Output: 500 Internal Server Error
}

// addresses is the code under test: it keeps the last list it had.
type addresses struct {
	client *api.Client
	index  uint64
	last   []string
}

func (a *addresses) refresh() error {
	entries, meta, err := a.client.Health().Service("catalog", "", true, &api.QueryOptions{WaitIndex: a.index})
	if err != nil {
		return err
	}
	a.index, a.last = meta.LastIndex, nil
	for _, entry := range entries {
		a.last = append(a.last, entry.Service.Address)
	}
	return nil
}

func newAddresses(agent *consultest.Server) *addresses {
	_ = agent.Register(consultest.Service{ID: "catalog-1", Name: "catalog", Address: "10.0.0.1", Port: 8080})
	_ = agent.Register(consultest.Service{ID: "catalog-2", Name: "catalog", Address: "10.0.0.2", Port: 8080})
	client, err := api.NewClient(&api.Config{HttpClient: &http.Client{Transport: agent.Transport()}})
	if err != nil {
		panic(err)
	}
	return &addresses{client: client}
}

// What is left of a service's list while Consul has no leader?
func ExampleServer_Inject() {
	agent := consultest.New()
	defer agent.Close()
	catalog := newAddresses(agent)
	fmt.Println(catalog.refresh(), catalog.last)

	lift := agent.Inject(consultest.NoLeader())
	fmt.Println(catalog.refresh() != nil, catalog.last)
	lift()

	defer agent.Inject(consultest.Without(0.5).Service("catalog"))()
	fmt.Println(catalog.refresh(), catalog.last)
	// Output:
	// <nil> [10.0.0.1 10.0.0.2]
	// true [10.0.0.1 10.0.0.2]
	// <nil> [10.0.0.2]
}

// The first request meets the first step, the second the next.
func ExampleServer_Script() {
	agent := consultest.New()
	defer agent.Close()
	catalog := newAddresses(agent)

	done := agent.Script(consultest.NoLeader().Times(2), consultest.Pass(), consultest.Empty())
	for range 5 {
		err := catalog.refresh()
		fmt.Println(err != nil, catalog.last)
	}
	<-done
	// Output:
	// true []
	// true []
	// false [10.0.0.1 10.0.0.2]
	// false []
	// false [10.0.0.1 10.0.0.2]
}

// An instance that cannot make up its mind, watched with blocking queries.
func ExampleServer_Flap() {
	agent := consultest.New()
	defer agent.Close()
	catalog := newAddresses(agent)
	stop := agent.Flap("catalog-2", 10*time.Millisecond)
	seen := map[string]bool{} // in real time it may miss a turn, but not all
	for len(seen) < 2 {
		_ = catalog.refresh()
		seen[fmt.Sprint(catalog.last)] = true
	}
	stop()
	fmt.Println(seen)
	// Output: map[[10.0.0.1 10.0.0.2]:true [10.0.0.1]:true]
}

// The test that the package comment shows: ten minutes of outage take no time.
func TestOutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		catalog, start := newAddresses(agent), time.Now()
		must(t, catalog.refresh())

		agent.SetReachable(false)
		time.AfterFunc(10*time.Minute, func() { agent.SetReachable(true) })
		for catalog.refresh() != nil {
			if len(catalog.last) != 2 {
				t.Fatalf("after %v there is only %v", time.Since(start), catalog.last)
			}
			time.Sleep(time.Second)
		}
		if outage := time.Since(start); outage < 10*time.Minute {
			t.Errorf("it was over after %v", outage)
		}
	})
}

// Two datacenters, of which one goes away.
func ExampleServer_Join() {
	east := consultest.New(consultest.WithDatacenter("east"))
	defer east.Close()
	west := consultest.New(consultest.WithDatacenter("west"))
	defer west.Close()
	if err := east.Join(west); err != nil {
		fmt.Println(err)
		return
	}
	_ = west.Register(consultest.Service{Name: "catalog"})
	client := &http.Client{Transport: east.Transport()}
	for _, reachable := range []bool{true, false} {
		west.SetReachable(reachable)
		res, err := client.Get("http://consul/v1/health/service/catalog?dc=west")
		if err != nil {
			fmt.Println(err)
			return
		}
		_ = res.Body.Close()
		fmt.Println(res.Status)
	}
	// Output:
	// 200 OK
	// 500 Internal Server Error
}

// Where do calls of debuggers go, and how many others does the canary get? The entries are those
// that `consul config write` takes in production, and Consul's mistakes are found here, too.
func ExampleServer_WriteConfig() {
	agent := consultest.New()
	defer agent.Close()
	for _, entry := range []any{
		`{"Kind": "service-defaults", "Name": "catalog", "Protocol": "grpc"}`,
		`{"Kind": "service-resolver", "Name": "catalog", "DefaultSubset": "v1", "Subsets": {
			"v1": {"Filter": "Service.Meta.version == 1"}, "v2": {"Filter": "Service.Meta.version == 2"}}}`,
		`{"Kind": "service-splitter", "Name": "catalog", "Splits": [
			{"Weight": 90, "ServiceSubset": "v1"}, {"Weight": 10, "ServiceSubset": "v2"}]}`,
		&api.ServiceRouterConfigEntry{Kind: api.ServiceRouter, Name: "catalog", Routes: []api.ServiceRoute{{
			Match:       &api.ServiceRouteMatch{HTTP: &api.ServiceRouteHTTPMatch{Header: []api.ServiceRouteHTTPMatchHeader{{Name: "x-debug", Present: true}}}},
			Destination: &api.ServiceRouteDestination{ServiceSubset: "v2"},
		}}},
	} {
		if err := agent.WriteConfig(entry); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(agent.WriteConfig(`{"Kind": "service-splitter", "Name": "catalog", "Splits": [{"Weight": 100, "ServiceSubset": "v3"}]}`))

	client, err := api.NewClient(&api.Config{HttpClient: &http.Client{Transport: agent.Transport()}})
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, _, err := client.DiscoveryChain().Get("catalog", nil, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	nodes := answer.Chain.Nodes
	for _, route := range nodes[answer.Chain.StartNode].Routes {
		fmt.Println(route.NextNode)
		for _, split := range nodes[route.NextNode].Splits {
			fmt.Printf("  %v%% to %s\n", split.Weight, split.NextNode)
		}
	}
	// Output:
	// service "catalog" does not have a subset named "v3"
	// resolver:v2.catalog.default.default.dc1
	// splitter:catalog.default.default
	//   90% to resolver:v1.catalog.default.default.dc1
	//   10% to resolver:v2.catalog.default.default.dc1
}
