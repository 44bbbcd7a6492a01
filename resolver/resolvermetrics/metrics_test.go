package resolvermetrics_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/series/seriestest"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
	"github.com/meshlite-go/meshlite/resolver/resolvermetrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	agent := consultest.New()
	defer agent.Close()
	directory, err := consul.New(consul.Config{Address: "127.0.0.1:8500", Transport: agent.Transport()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer directory.Close()
	builder := resolver.NewBuilder(directory)
	registry := prometheus.NewRegistry()
	registry.MustRegister(resolvermetrics.New(builder.Stats, directory.Stats))
	if _, err := directory.NodeAddress(context.Background()); err != nil {
		fmt.Println(err)
	}
	n, err := testutil.GatherAndCount(registry, "meshlite_consul_requests_total")
	fmt.Println(n, err)
	// Output: 1 <nil>
}

func TestWatchesAreMeasuredByServiceAndQuery(t *testing.T) {
	plain := catalog.Query{Service: "catalog"}
	tagged := catalog.Query{Service: "catalog", Tags: []string{"fast"}}
	watches := func() []resolver.Stats {
		return []resolver.Stats{
			{Directory: "consul at a", Query: plain, Answers: 7, Failures: 2, Passing: 3, Warning: 1, Held: 2, Critical: 9, Maintenance: 1, Panicking: true, AnsweredAt: time.Now()},
			{Directory: "consul at a", Query: plain, Answers: 1}, // with another grace time
			{Directory: "consul at a", Query: tagged, Error: "refused", Failures: 4},
		}
	}
	want := `
# HELP meshlite_discovery_answers_total Answers of the directory.
# TYPE meshlite_discovery_answers_total counter
meshlite_discovery_answers_total{directory="consul at a",query="",service="catalog"} 8
meshlite_discovery_answers_total{directory="consul at a",query="tag=fast",service="catalog"} 0
# HELP meshlite_discovery_failing 1 while the last query has failed and calls go on with the last list.
# TYPE meshlite_discovery_failing gauge
meshlite_discovery_failing{directory="consul at a",query="",service="catalog"} 0
meshlite_discovery_failing{directory="consul at a",query="tag=fast",service="catalog"} 1
# HELP meshlite_discovery_failures_total Queries without an answer, or with an error.
# TYPE meshlite_discovery_failures_total counter
meshlite_discovery_failures_total{directory="consul at a",query="",service="catalog"} 2
meshlite_discovery_failures_total{directory="consul at a",query="tag=fast",service="catalog"} 4
# HELP meshlite_discovery_held_instances Instances that have vanished from the directory and are held for the grace time.
# TYPE meshlite_discovery_held_instances gauge
meshlite_discovery_held_instances{directory="consul at a",query="",service="catalog"} 2
meshlite_discovery_held_instances{directory="consul at a",query="tag=fast",service="catalog"} 0
# HELP meshlite_discovery_instances Instances by their state in the directory. A channel calls a subset of many.
# TYPE meshlite_discovery_instances gauge
meshlite_discovery_instances{directory="consul at a",query="",service="catalog",state="critical"} 9
meshlite_discovery_instances{directory="consul at a",query="",service="catalog",state="maintenance"} 1
meshlite_discovery_instances{directory="consul at a",query="",service="catalog",state="passing"} 3
meshlite_discovery_instances{directory="consul at a",query="",service="catalog",state="warning"} 1
meshlite_discovery_instances{directory="consul at a",query="tag=fast",service="catalog",state="critical"} 0
meshlite_discovery_instances{directory="consul at a",query="tag=fast",service="catalog",state="maintenance"} 0
meshlite_discovery_instances{directory="consul at a",query="tag=fast",service="catalog",state="passing"} 0
meshlite_discovery_instances{directory="consul at a",query="tag=fast",service="catalog",state="warning"} 0
# HELP meshlite_discovery_panicking 1 while too few instances are healthy and those that fail their health checks are called as well.
# TYPE meshlite_discovery_panicking gauge
meshlite_discovery_panicking{directory="consul at a",query="",service="catalog"} 1
meshlite_discovery_panicking{directory="consul at a",query="tag=fast",service="catalog"} 0
`
	err := testutil.CollectAndCompare(resolvermetrics.New(watches, nil), strings.NewReader(want),
		"meshlite_discovery_answers_total", "meshlite_discovery_failing", "meshlite_discovery_failures_total",
		"meshlite_discovery_held_instances", "meshlite_discovery_instances", "meshlite_discovery_panicking")
	if err != nil {
		t.Error(err)
	}
	// Never answered is no age.
	if n := testutil.CollectAndCount(resolvermetrics.New(watches, nil), "meshlite_discovery_data_age_seconds"); n != 1 {
		t.Errorf("%d ages of two watches of which one was answered, want 1", n)
	}
}

// A target can name anything, and no scrape may fail for it.
func TestNamesThatAreNoTextAreMeasuredAsWell(t *testing.T) {
	watches := func() []resolver.Stats {
		return []resolver.Stats{{Directory: "consul at \xff", Query: catalog.Query{Service: "cat\xff"}}}
	}
	agents := func() []consul.Stats { return []consul.Stats{{Agent: "\xff:8500"}} }
	if err := testutil.CollectAndCompare(resolvermetrics.New(watches, agents), strings.NewReader(`
# HELP meshlite_discovery_answers_total Answers of the directory.
# TYPE meshlite_discovery_answers_total counter
meshlite_discovery_answers_total{directory="consul at ?",query="",service="cat?"} 0
`), "meshlite_discovery_answers_total"); err != nil {
		t.Error(err)
	}
}

func TestDirectoriesOfOneAgentAreAddedUp(t *testing.T) {
	agents := func() []consul.Stats {
		return []consul.Stats{
			{Agent: "127.0.0.1:8500", Requests: 3, Failures: 1, Reregistrations: 1, Registrations: 2},
			{Agent: "127.0.0.1:8500", Requests: 4},
		}
	}
	want := `
# HELP meshlite_consul_registrations Registrations that are kept.
# TYPE meshlite_consul_registrations gauge
meshlite_consul_registrations{agent="127.0.0.1:8500"} 2
# HELP meshlite_consul_request_failures_total Requests to the agent without an answer, or with an error.
# TYPE meshlite_consul_request_failures_total counter
meshlite_consul_request_failures_total{agent="127.0.0.1:8500"} 1
# HELP meshlite_consul_requests_total Requests to the agent.
# TYPE meshlite_consul_requests_total counter
meshlite_consul_requests_total{agent="127.0.0.1:8500"} 7
# HELP meshlite_consul_reregistrations_total Registrations that the agent had lost or changed, and that were made again.
# TYPE meshlite_consul_reregistrations_total counter
meshlite_consul_reregistrations_total{agent="127.0.0.1:8500"} 1
`
	if err := testutil.CollectAndCompare(resolvermetrics.New(nil, agents), strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestMetricsAreWellNamed(t *testing.T) {
	watches := func() []resolver.Stats { return []resolver.Stats{{Directory: "d", AnsweredAt: time.Now()}} }
	agents := func() []consul.Stats { return []consul.Stats{{Agent: net.JoinHostPort("127.0.0.1", "8500")}} }
	problems, err := testutil.CollectAndLint(resolvermetrics.New(watches, agents))
	if err != nil || len(problems) > 0 {
		t.Errorf("the linter of Prometheus says %v %v", problems, err)
	}
}

func TestRegistrationsAreMeasuredByService(t *testing.T) {
	now := time.Now()
	agents := func() []consul.Stats {
		return []consul.Stats{
			{Agent: "a", Services: []consul.ServiceStats{
				{Service: "catalog", Registered: true, Attempts: 3, Failures: 1, ConfirmedAt: now},
				{Service: "new", Attempts: 1, Failures: 1},
			}},
			{Agent: "a", Services: []consul.ServiceStats{{Service: "catalog", Attempts: 4, Failures: 2, ConfirmedAt: now.Add(-time.Hour)}}},
		}
	}
	want := `
# HELP meshlite_registered 1 while the agent has a service of this process, 0 while it has not or cannot be reached.
# TYPE meshlite_registered gauge
meshlite_registered{agent="a",service="catalog"} 0
meshlite_registered{agent="a",service="new"} 0
# HELP meshlite_registration_attempts_total Attempts to register, and heartbeats that read the registration from the agent.
# TYPE meshlite_registration_attempts_total counter
meshlite_registration_attempts_total{agent="a",service="catalog"} 7
meshlite_registration_attempts_total{agent="a",service="new"} 1
# HELP meshlite_registration_failures_total Of these, those that failed at the agent or the self-check.
# TYPE meshlite_registration_failures_total counter
meshlite_registration_failures_total{agent="a",service="catalog"} 3
meshlite_registration_failures_total{agent="a",service="new"} 1
`
	c := resolvermetrics.New(nil, agents)
	err := testutil.CollectAndCompare(c, strings.NewReader(want),
		"meshlite_registered", "meshlite_registration_attempts_total", "meshlite_registration_failures_total")
	if err != nil {
		t.Error(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "meshlite_registration_age_seconds" {
			if m := f.GetMetric(); len(m) != 1 || m[0].GetGauge().GetValue() < 3600 {
				t.Errorf("ages %v, want one of an hour", m)
			}
		}
	}
}

func TestASecondCollectorIsRefused(t *testing.T) {
	watches := func() []resolver.Stats { return []resolver.Stats{{Directory: "d", AnsweredAt: time.Now()}} }
	agents := func() []consul.Stats {
		return []consul.Stats{{Agent: "127.0.0.1:8500", Services: []consul.ServiceStats{{Service: "catalog"}}}}
	}
	seriestest.RefusesASecond(t, func() prometheus.Collector { return resolvermetrics.New(watches, agents) })
}
