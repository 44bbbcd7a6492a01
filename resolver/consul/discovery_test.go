package consul_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// agent is what the tests of this file need of an agent: the simulated and a real
// one must behave alike.
type agent struct {
	address    string
	restart    func(t *testing.T) // empty, as an agent in dev mode comes back
	service    string             // the token of the service catalog; "" where there are no ACLs
	client     string             // the token of a program that only calls
	operations string             // the operator's token
}

// asClient is the agent as a program that only calls uses it.
func (a agent) asClient() agent { a.service = a.client; return a }

// at is the agent behind a proxy.
func (a agent) at(address string) agent { a.address = address; return a }

// operator is Consul's own client, with all rights.
func (a agent) operator(t *testing.T) *api.Client {
	t.Helper()
	client := apiOf(t, a.address, nil)
	client.AddHeader("X-Consul-Token", a.operations)
	return client
}

// onEveryAgent runs test against the simulated and a real Consul, and against a real one that
// is secured as in production, with the policies of deploy/consul/policies.
func onEveryAgent(t *testing.T, test func(t *testing.T, a agent)) {
	onPlainAgents(t, test)
	t.Run("secured", func(t *testing.T) { test(t, startSecured(t)) })
}

// startSecured runs a secured agent, whose ACLs are restored by a restart.
func startSecured(t *testing.T) agent {
	t.Helper()
	real := agenttest.StartSecured(t)
	a := agent{
		address: real.Address, operations: agenttest.Management,
		service: "aaaaaaaa-2222-3333-4444-555555555555", client: "bbbbbbbb-2222-3333-4444-555555555555",
	}
	grant := func() {
		real.Token("of-catalog", a.service, agenttest.Policy(t, "service", "catalog"))
		real.Token("of-clients", a.client, agenttest.Policy(t, "client", "catalog"))
	}
	a.restart = func(t *testing.T) {
		if err := real.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		grant()
	}
	grant()
	return a
}

// onPlainAgents runs test against the simulated and a real Consul.
func onPlainAgents(t *testing.T, test func(t *testing.T, a agent)) {
	t.Run("simulated", func(t *testing.T) {
		server := consultest.New()
		t.Cleanup(server.Close)
		address, err := server.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		test(t, agent{address: address, restart: func(*testing.T) {
			// A real agent is away for a while; this one is back before a query that
			// is on its way arrives, and would hold it for the whole wait.
			for q := server.Queries(); len(q) > 0 && q[len(q)-1].Index == 0; q = server.Queries() {
				time.Sleep(time.Millisecond)
			}
			server.Restart()
		}})
	})
	t.Run("consul", func(t *testing.T) {
		real := agenttest.Start(t)
		test(t, agent{address: real.Address, restart: func(t *testing.T) {
			if err := real.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}})
	})
}

func dial(t *testing.T, a agent, config consul.Config) *consul.Directory {
	t.Helper()
	config.Address, config.Logger = a.address, silent
	if config.Token == "" && config.TokenFile == "" {
		config.Token = a.service
	}
	d, err := consul.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func instance(id, address string) catalog.Registration {
	return catalog.Registration{Instance: catalog.Instance{ID: id, Service: "catalog", Address: address, Weight: 1}, DeregisterAfter: -1}
}

func mustRegister(t *testing.T, d *consul.Directory, r catalog.Registration) catalog.Lease {
	t.Helper()
	lease, err := d.Register(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lease.Deregister(context.Background()) })
	return lease
}

func TestWatchFollowsRegistrations(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{})
		r := watch(dial(t, a.asClient(), consul.Config{}), catalog.Query{Service: "catalog"})
		defer r.stop()
		r.await(t)
		one, two := serveHealth(t), serveHealth(t)
		first := mustRegister(t, d, instance("catalog-1", one))
		r.await(t, one)
		mustRegister(t, d, instance("catalog-2", two))
		r.await(t, one, two)
		if err := first.Deregister(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.await(t, two)
	})
}

func TestInstancesHaveWhatWasRegistered(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{})
		address := serveHealth(t)
		registration := instance("catalog-1", address)
		registration.Tags = []string{"v2", "canary"}
		registration.Metadata = map[string]string{"zone": "a", "metrics_address": "127.0.0.1:9"}
		registration.Weight = 7
		mustRegister(t, d, registration)
		r := watch(d, catalog.Query{Service: "catalog", Tags: []string{"canary", "v2"}})
		defer r.stop()
		got := r.await(t, address).Instances[0]
		if got.ID != "catalog-1" || got.Weight != 7 || got.Zone != "a" || got.Status != catalog.Passing ||
			!slices.Equal(got.Tags, []string{"canary", "v2"}) || got.Metadata["metrics_address"] != "127.0.0.1:9" || got.Datacenter != "dc1" {
			t.Errorf("instance is %+v", got)
		}
		other := watch(dial(t, a.asClient(), consul.Config{}), catalog.Query{Service: "catalog", Tags: []string{"v1"}})
		defer other.stop()
		other.await(t)
	})
}

// A server of HTTP and gRPC that kratos registers has a URL for each, and the port of the
// first as its own.
func TestAnInstanceIsCalledAtTheEndpointOfTheScheme(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	for id, tagged := range map[string]map[string]consultest.ServiceAddress{
		"both":     {"http": {Address: "http://10.0.1.1:8000", Port: 8000}, "grpc": {Address: "grpc://10.0.1.1:9000", Port: 9000}},
		"tls":      {"grpcs": {Address: "grpcs://[2001:db8::1]:9443?isSecure=true", Port: 9443}},
		"none":     nil,
		"path":     {"grpc": {Address: "10.0.0.9"}},
		"no port":  {"grpc": {Address: "grpc://10.0.0.9"}},
		"port 0":   {"grpc": {Address: "grpc://10.0.0.9:0"}},
		"too high": {"grpc": {Address: "grpc://10.0.0.9:65536"}},
		"no host":  {"grpc": {Address: "grpc://:9000"}},
		"other":    {"grpc": {Address: "http://10.0.0.9:9000"}},
		"broken":   {"grpc": {Address: "grpc://10.0.0.9:%zz"}},
	} {
		if err := agent.Register(consultest.Service{ID: id, Name: id, Address: "10.0.0.1", Port: 8000, TaggedAddresses: tagged}); err != nil {
			t.Fatal(err)
		}
	}
	d := newDirectory(t, agent, consul.Config{})
	for _, c := range []struct{ service, scheme, want string }{
		{"both", "", "10.0.1.1:9000"}, {"both", "http", "10.0.1.1:8000"}, {"both", "https", "10.0.0.1:8000"},
		{"tls", "", "[2001:db8::1]:9443"}, {"tls", "grpc", "10.0.0.1:8000"}, {"none", "", "10.0.0.1:8000"},
		{"path", "", "10.0.0.1:8000"}, {"no port", "", "10.0.0.1:8000"}, {"port 0", "", "10.0.0.1:8000"},
		{"too high", "", "10.0.0.1:8000"}, {"no host", "", "10.0.0.1:8000"}, {"other", "", "10.0.0.1:8000"}, {"broken", "", "10.0.0.1:8000"},
	} {
		r := watch(d, catalog.Query{Service: c.service, Scheme: c.scheme})
		r.await(t, c.want)
		r.stop()
	}
}

// R13: IPv6, empty service address (node address is used), port 0, duplicate
// address:port are handled.
//
// Case R13: IPv6, node address, port 0, duplicates.
func TestOddAddresses(t *testing.T) {
	agent := consultest.New(consultest.WithNode("node", "10.0.0.9"))
	defer agent.Close()
	for _, s := range []consultest.Service{
		{ID: "six", Name: "catalog", Address: "2001:db8::1", Port: 80},
		{ID: "node", Name: "catalog", Port: 80},
		{ID: "zero", Name: "catalog", Address: "10.0.0.1", Port: 0},
		{ID: "twin-b", Name: "catalog", Address: "10.0.0.2", Port: 80},
		{ID: "twin-a", Name: "catalog", Address: "10.0.0.2", Port: 80},
	} {
		if err := agent.Register(s); err != nil {
			t.Fatal(err)
		}
	}
	r := watch(newDirectory(t, agent, consul.Config{}), catalog.Query{Service: "catalog"})
	defer r.stop()
	s := r.await(t, "[2001:db8::1]:80", "10.0.0.9:80", "10.0.0.2:80")
	for _, i := range s.Instances {
		if i.Address == "10.0.0.2:80" && i.ID != "twin-a" {
			t.Errorf("of two registrations of one address %q is taken, want always the first", i.ID)
		}
	}
}

func TestWarningInstancesOnlyByOption(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	for _, s := range []consultest.Service{
		{ID: "good", Name: "catalog", Address: "10.0.0.1", Port: 80, Weights: consultest.Weights{Passing: 5, Warning: 2}},
		{ID: "warns", Name: "catalog", Address: "10.0.0.2", Port: 80, Weights: consultest.Weights{Passing: 5, Warning: 2}},
		{ID: "out", Name: "catalog", Address: "10.0.0.3", Port: 80, Weights: consultest.Weights{Passing: 5, Warning: 0}},
		{ID: "bad", Name: "catalog", Address: "10.0.0.4", Port: 80},
	} {
		if err := agent.Register(s); err != nil {
			t.Fatal(err)
		}
	}
	for id, status := range map[string]string{"warns": consultest.HealthWarning, "out": consultest.HealthWarning, "bad": consultest.HealthCritical} {
		if err := agent.SetStatus(id, status); err != nil {
			t.Fatal(err)
		}
	}
	d := newDirectory(t, agent, consul.Config{})
	passing := watch(d, catalog.Query{Service: "catalog"})
	defer passing.stop()
	passing.await(t, "10.0.0.1:80")
	warning := watch(d, catalog.Query{Service: "catalog", Warning: true})
	defer warning.stop()
	for _, i := range warning.await(t, "10.0.0.1:80", "10.0.0.2:80").Instances {
		if want := map[string]uint32{"good": 5, "warns": 2}[i.ID]; i.Weight != want {
			t.Errorf("%s has weight %d, want %d", i.ID, i.Weight, want)
		}
	}
}

// G1: after the agent restarts empty, the service is back within one heartbeat
// (5 s, jittered by 20 %).
//
// Case G1
func TestForgottenServiceComesBackWithinAHeartbeat(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{Heartbeat: time.Second})
		address := serveHealth(t)
		mustRegister(t, d, instance("catalog-1", address))
		r := watch(d, catalog.Query{Service: "catalog"})
		defer r.stop()
		r.await(t, address)
		_, before := r.last()
		a.restart(t)
		// The real agent's client has to reconnect, so this waits on the news, not on time.
		r.awaitNews(t, before)
		r.await(t, address)
		fresh := watch(dial(t, a.asClient(), consul.Config{}), catalog.Query{Service: "catalog"}) // which has no list from before
		defer fresh.stop()
		fresh.await(t, address)
	})
}

// awaitNews waits for a snapshot after the first n.
func (r *reports) awaitNews(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		if _, now := r.last(); now > n {
			return
		}
		select {
		case <-r.news:
		case <-deadline:
			t.Fatal("no news of the restarted agent")
		}
	}
}

// A service registers as passing, so it must have been reached at its address.
//
// Case G1
func TestNothingRegistersThatCannotBeReached(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	d := newDirectory(t, agent, consul.Config{})
	r := instance("catalog-1", "10.0.0.1:80")
	r.SelfCheck = func(context.Context) error { return errors.New("no route to host") }
	_, err := d.Register(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "10.0.0.1:80") || !strings.Contains(err.Error(), "no route to host") {
		t.Errorf("error is %v, want one with the address and the reason", err)
	}
}

// G3: DeregisterCriticalServiceAfter below one minute is rejected at
// configuration time (Consul would raise it silently).
//
// Case G3
func TestRegistrationIsCheckedBeforeConsulIsAsked(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	agent.SetReachable(false)
	d := newDirectory(t, agent, consul.Config{})
	for name, test := range map[string]struct {
		change func(*catalog.Registration)
		want   string
	}{
		"deregister below a minute": {func(r *catalog.Registration) { r.DeregisterAfter = 59 * time.Second }, "DeregisterAfter 59s"},
		"no port":                   {func(r *catalog.Registration) { r.Address = "10.0.0.1" }, `Address "10.0.0.1"`},
		"port 0":                    {func(r *catalog.Registration) { r.Address = "10.0.0.1:0" }, `Address "10.0.0.1:0"`},
		"no host":                   {func(r *catalog.Registration) { r.Address = ":80" }, `Address ":80"`},
		"no name":                   {func(r *catalog.Registration) { r.Service = "" }, "Service is empty"},
		"no id":                     {func(r *catalog.Registration) { r.ID = "" }, "ID is empty"},
		"check too often":           {func(r *catalog.Registration) { r.CheckInterval = time.Millisecond }, "CheckInterval 1ms"},
	} {
		t.Run(name, func(t *testing.T) {
			r := instance("catalog-1", "10.0.0.1:80")
			test.change(&r)
			if _, err := d.Register(t.Context(), r); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want one that says %q", err, test.want)
			}
		})
	}
}

func TestNodeAddressIsTheAgents(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{})
		address, err := d.NodeAddress(t.Context())
		if err != nil || !net.ParseIP(address).IsLoopback() {
			t.Errorf("node address is %q, %v; want loopback", address, err)
		}
	})
}

func TestDeregisterIsDoneOnce(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{})
		lease := mustRegister(t, d, instance("catalog-1", serveHealth(t)))
		for range 2 {
			if err := lease.Deregister(t.Context()); err != nil {
				t.Error(err)
			}
		}
		forgotten := mustRegister(t, d, instance("catalog-2", serveHealth(t)))
		a.restart(t)
		if err := forgotten.Deregister(t.Context()); err != nil {
			t.Errorf("leaving an agent that has forgotten the service: %v", err)
		}
	})
}
