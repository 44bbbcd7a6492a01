package consul_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func TestAgentReturnsItsNameAndVersion(t *testing.T) {
	onPlainAgents(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{})
		got, err := d.Agent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got.Version == "" || got.Node == "" || got.NodeAddress != "127.0.0.1" || got.Datacenter != "dc1" || got.Leader == "" || got.ACLs || got.ClockOffset != 0 {
			t.Errorf("the agent is %+v", got)
		}
		if err := d.CheckToken(t.Context()); err != nil {
			t.Errorf("where there is no access control the token is wrong: %v", err)
		}
	})
}

func TestAClockThatIsWrongIsReported(t *testing.T) {
	for _, ahead := range []time.Duration{-time.Hour, -900 * time.Millisecond, 0, 900 * time.Millisecond, 90 * time.Second} {
		t.Run(ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				agent := consultest.New()
				defer agent.Close()
				agent.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
					time.Sleep(2 * time.Second) // on its way, there and back
					w.Header().Set("Date", time.Now().Add(ahead-time.Second).UTC().Format(http.TimeFormat))
					return false
				})
				got, err := newDirectory(t, agent, consul.Config{}).Agent(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if off := (got.ClockOffset - ahead).Abs(); off > time.Second {
					t.Errorf("the clock is reported %v ahead, which is %v", got.ClockOffset, ahead)
				}
			})
		})
	}
}

func TestTokensAreJudged(t *testing.T) {
	for name, test := range map[string]struct {
		token, agent, check string // errors
	}{
		"right":     {"right", "", ""},
		"powerless": {"weak", "agent:read", ""},
		"unknown":   {"unknown-and-secret", "denied", "rejects the token"},
	} {
		t.Run(name, func(t *testing.T) {
			agent := consultest.New(consultest.WithACL("right", "weak"))
			defer agent.Close()
			d := newDirectory(t, agent, consul.Config{Token: test.token})
			got, err := d.Agent(t.Context())
			expect(t, "Agent", err, test.agent)
			if !got.ACLs || got.Leader == "" {
				t.Errorf("the agent is %+v, want ACLs and the leader in any case", got)
			}
			expect(t, "CheckToken", d.CheckToken(t.Context()), test.check)
		})
	}
}

// expect wants an error that says text, and never the token; none if text is "".
func expect(t *testing.T, what string, err error, text string) {
	t.Helper()
	switch {
	case text == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case text != "" && (err == nil || !strings.Contains(err.Error(), text)):
		t.Errorf("%s answers %v, want an error that says %q", what, err, text)
	case err != nil && strings.Contains(err.Error(), "secret"):
		t.Errorf("%s repeats the token: %v", what, err)
	}
}

func TestServicesAreCounted(t *testing.T) {
	onPlainAgents(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{})
		// More services than requests at once.
		for i := range 12 {
			r := instance("x", serveHealth(t))
			r.Service = fmt.Sprintf("shop-%02d", i)
			for n := range 1 + i%3 {
				r.ID, r.Tags = fmt.Sprintf("%s-%d", r.Service, n), []string{"all", fmt.Sprintf("v%d", n)}
				mustRegister(t, d, r)
			}
		}
		w := watch(d, catalog.Query{Service: "shop-11"})
		defer w.stop()
		operator := a.operator(t).Agent()
		if err := operator.EnableServiceMaintenance("shop-11-0", "closed"); err != nil {
			t.Fatal(err)
		}
		for entries := []consul.Entry(nil); len(entries) < 3 || entries[0].Status == catalog.Passing; {
			<-w.news
			var err error
			if entries, err = d.Entries(t.Context(), catalog.Query{Service: "shop-11"}); err != nil {
				t.Fatal(err)
			}
		}
		services, err := d.Services(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if len(services) != 12 || services[0].Name != "shop-00" || services[0].Passing != 1 || fmt.Sprint(services[0].Tags) != "[all v0]" {
			t.Fatalf("the services are %+v", services)
		}
		if last := services[11]; last.Passing != 2 || last.Critical != 1 || fmt.Sprint(last.Tags) != "[all v0 v1 v2]" {
			t.Errorf("the last is %+v", last)
		}
		names, err := d.ServiceNames(t.Context(), "")
		if err != nil || len(names) != 12 || names[0] != "shop-00" || names[11] != "shop-11" {
			t.Errorf("the names are %v, %v", names, err)
		}
		const fix = `has no datacenter "nowhere" (No path to datacenter): see `
		_, err = d.Services(t.Context(), "nowhere")
		expect(t, "Services", err, fix)
		_, err = d.Entries(t.Context(), catalog.Query{Service: "shop-11", Datacenter: "nowhere"})
		expect(t, "Entries", err, fix)
	})
}

func TestEntriesAreAllThatIsRegistered(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	for _, s := range []consultest.Service{
		{ID: "twin-b", Name: "catalog", Address: "10.0.0.2", Port: 80},
		{ID: "twin-a", Name: "catalog", Address: "10.0.0.2", Port: 80, Tags: []string{"v2"}},
		{ID: "bad", Name: "catalog", Address: "10.0.0.1", Port: 80},
		{ID: "zero", Name: "catalog", Address: "10.0.0.3"},
	} {
		if err := agent.Register(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := agent.SetStatus("bad", consultest.HealthCritical); err != nil {
		t.Fatal(err)
	}
	d := newDirectory(t, agent, consul.Config{})
	entries, err := d.Entries(t.Context(), catalog.Query{Service: "catalog"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, fmt.Sprintf("%s %s %s", e.Address, e.ID, e.Status))
	}
	if want := "[ zero passing 10.0.0.1:80 bad critical 10.0.0.2:80 twin-a passing 10.0.0.2:80 twin-b passing]"; fmt.Sprint(got) != want {
		t.Errorf("the entries are %v, want %v", got, want)
	}
	if entries, err = d.Entries(t.Context(), catalog.Query{Service: "catalog", Tags: []string{"v2"}}); err != nil || len(entries) != 1 || entries[0].ID != "twin-a" {
		t.Errorf("with the tag v2 they are %+v, %v", entries, err)
	}
}

func TestEntriesByFilterAndNear(t *testing.T) {
	d := dial(t, agent{address: agenttest.Start(t).Address}, consul.Config{})
	for id, version := range map[string]string{"catalog-1": "1", "catalog-2": "2"} {
		r := instance(id, serveHealth(t))
		r.Metadata = map[string]string{"version": version}
		mustRegister(t, d, r)
	}
	entries, err := d.Entries(t.Context(), catalog.Query{Service: "catalog", Near: "_agent", Filter: `Service.Meta.version == "2"`})
	if err != nil || len(entries) != 1 || entries[0].ID != "catalog-2" {
		t.Errorf("the entries are %+v, %v", entries, err)
	}
	_, err = d.Entries(t.Context(), catalog.Query{Service: "catalog", Filter: "=="})
	expect(t, "Entries", err, "rejects the filter `==`")
}

// What hides behind ACLs is not an empty list, and where nothing can be read that is
// an error.
func TestListingsReportWhatIsHidden(t *testing.T) {
	agent := consultest.New(consultest.WithACL("right", "weak"))
	defer agent.Close()
	register(t, agent, "catalog-1", 80)
	weak := newDirectory(t, agent, consul.Config{Token: "weak"})
	_, err := weak.Services(t.Context(), "")
	expect(t, "Services", err, "service:read")
	_, err = weak.Entries(t.Context(), catalog.Query{Service: "catalog"})
	expect(t, "Entries", err, "service:read")

	agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/v1/health/") {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}
		return false
	})
	_, err = newDirectory(t, agent, consul.Config{Token: "right"}).Services(t.Context(), "")
	expect(t, "Services", err, "500")
}

func TestOneServiceThatCannotBeReadDoesNotHideTheOthers(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	for _, name := range []string{"catalog", "prices"} {
		if err := agent.Register(consultest.Service{ID: name, Name: name, Address: "10.0.0.1", Port: 80}); err != nil {
			t.Fatal(err)
		}
	}
	agent.Inject(consultest.NoLeader().When(func(r *http.Request) bool { return r.URL.Path == "/v1/health/service/prices" }))
	services, err := newDirectory(t, agent, consul.Config{}).Services(t.Context(), "")
	if err != nil || len(services) != 2 || services[0].Passing != 1 || services[0].Error != "" || !strings.Contains(services[1].Error, "No cluster leader") {
		t.Errorf("the services are %+v, %v", services, err)
	}
}

// What an agent lacks is not blamed on its address.
func TestAnAgentWithoutALeaderHasItsOwnError(t *testing.T) {
	for _, text := range []string{"No cluster leader", "rpc error making call: No cluster leader", "No known Consul servers"} {
		agent := consultest.New()
		defer agent.Close()
		agent.Inject(consultest.ServerError(http.StatusInternalServerError, text))
		_, err := newDirectory(t, agent, consul.Config{}).Entries(t.Context(), catalog.Query{Service: "catalog"})
		expect(t, "Entries", err, fmt.Sprintf("answered %q: start servers until most of them are up", text))
		if strings.Contains(err.Error(), "CONSUL_HTTP_ADDR") {
			t.Errorf("it blames the address: %v", err)
		}
	}
}

// Leader, clock and token are reported though the agent does not describe itself.
func TestAnAgentWithoutItsOwnDataIsReached(t *testing.T) {
	for _, status := range []int{http.StatusInternalServerError, http.StatusForbidden} {
		agent := consultest.New()
		defer agent.Close()
		agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			refused := r.URL.Path == "/v1/agent/self"
			if refused {
				w.WriteHeader(status)
			}
			return refused
		})
		if got, err := newDirectory(t, agent, consul.Config{}).Agent(t.Context()); err == nil || !got.Reached || got.Leader == "" {
			t.Errorf("the agent is %+v, %v", got, err)
		}
		agent.SetReachable(false)
		if got, err := newDirectory(t, agent, consul.Config{}).Agent(t.Context()); err == nil || got.Reached {
			t.Errorf("the agent is %+v, %v", got, err)
		}
	}
}

// A check of the node is not one of the service, and an operator's reason is shown.
func TestChecksIncludeNodesAndMaintenance(t *testing.T) {
	a := agent{address: agenttest.Start(t).Address}
	d := dial(t, a, consul.Config{})
	mustRegister(t, d, instance("catalog-1", serveHealth(t)))
	operator := a.operator(t).Agent()
	if err := operator.EnableServiceMaintenance("catalog-1", "new paint"); err != nil {
		t.Fatal(err)
	}
	if err := operator.EnableNodeMaintenance("new disks"); err != nil {
		t.Fatal(err)
	}
	w := watch(d, catalog.Query{Service: "catalog", Warning: true})
	defer w.stop()
	for seen := map[string]consul.Check{}; seen["Node Maintenance Mode"].Output == "" || seen["Service Maintenance Mode"].Output == ""; {
		<-w.news
		entries, err := d.Entries(t.Context(), catalog.Query{Service: "catalog"})
		if err != nil || len(entries) != 1 {
			t.Fatalf("the entries are %+v, %v", entries, err)
		}
		for _, c := range entries[0].Checks {
			seen[c.Name] = c
			if node := c.Name == "Serf Health Status" || c.Name == "Node Maintenance Mode"; c.Node != node {
				t.Errorf("the check %q is one of the node: %v", c.Name, c.Node)
			}
			if c.Name == "Node Maintenance Mode" && c.Output != "new disks" || c.Name == "Service Maintenance Mode" && c.Output != "new paint" {
				t.Errorf("the check %q says %q", c.Name, c.Output)
			}
		}
	}
}

func TestCheckTokenReportsWhatIsNoConsul(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	d := dial(t, agent{address: other.URL}, consul.Config{})
	expect(t, "CheckToken", d.CheckToken(t.Context()), "is that a Consul agent?")
}
