package balancermetrics_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/balancermetrics"
	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/internal/series/seriestest"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
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
	builder := resolver.NewBuilder(directory) // for grpc.WithResolvers
	registry := prometheus.NewRegistry()
	registry.MustRegister(balancermetrics.New(builder.Picks))
	n, err := testutil.GatherAndCount(registry, "meshlite_endpoint_picks_total")
	fmt.Println(n, err) // there is no channel yet
	// Output: 0 <nil>
}

// table is one of service, asked for by tag if that is not "".
func table(service, tag string, endpoints ...balancer.EndpointStats) resolver.Picks {
	q := catalog.Query{Service: service}
	if tag != "" {
		q.Tags = []string{tag}
	}
	return resolver.Picks{Directory: "consul at a", Service: service, Queries: []catalog.Query{q}, Channels: 1,
		TableStats: balancer.TableStats{Endpoints: endpoints}}
}

// endpoint is one in rotation.
func endpoint(address string, picks uint64) balancer.EndpointStats {
	return balancer.EndpointStats{ID: "at " + address, Address: address, Weight: 1, Warm: 1, Picks: picks, State: balancer.InRotation}
}

func compare(t *testing.T, c prometheus.Collector, want string, names ...string) {
	t.Helper()
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}

func TestEachEndpointIsTold(t *testing.T) {
	one := endpoint("10.0.0.1:80", 7)
	one.Refusals = 2
	one.Region, one.Zone, one.Weight, one.Part, one.InFlight, one.Latency = "eu", "eu-1", 3, 0.75, 2, 12.5
	two := endpoint("10.0.0.2:80", 3)
	two.Part, two.Failing, two.Warm, two.State, two.Reason = 0.25, 0.5, 0.4, balancer.Ejected, balancer.SuccessRate
	all := seriestest.Of(table("catalog", "", one, two))
	compare(t, balancermetrics.New(all.Read), `
# HELP meshlite_endpoint_ejected 1 while an endpoint is ejected because it fails. Of "other", how many are.
# TYPE meshlite_endpoint_ejected gauge
meshlite_endpoint_ejected{address="10.0.0.1:80",service="catalog"} 0
meshlite_endpoint_ejected{address="10.0.0.2:80",service="catalog"} 1
# HELP meshlite_endpoint_failing_ratio Part of the latest attempts that an endpoint has not answered.
# TYPE meshlite_endpoint_failing_ratio gauge
meshlite_endpoint_failing_ratio{address="10.0.0.1:80",service="catalog"} 0
meshlite_endpoint_failing_ratio{address="10.0.0.2:80",service="catalog"} 0.5
# HELP meshlite_endpoint_in_flight Attempts that were sent to an endpoint and are not over.
# TYPE meshlite_endpoint_in_flight gauge
meshlite_endpoint_in_flight{address="10.0.0.1:80",service="catalog"} 2
meshlite_endpoint_in_flight{address="10.0.0.2:80",service="catalog"} 0
# HELP meshlite_endpoint_info 1, with where an endpoint is.
# TYPE meshlite_endpoint_info gauge
meshlite_endpoint_info{address="10.0.0.1:80",region="eu",service="catalog",zone="eu-1"} 1
meshlite_endpoint_info{address="10.0.0.2:80",region="",service="catalog",zone=""} 1
# HELP meshlite_endpoint_latency_seconds Time to the first response, an average that rises at once and falls slowly. None until it is known.
# TYPE meshlite_endpoint_latency_seconds gauge
meshlite_endpoint_latency_seconds{address="10.0.0.1:80",service="catalog"} 0.0125
# HELP meshlite_endpoint_picks_total Attempts that were sent to an endpoint.
# TYPE meshlite_endpoint_picks_total counter
meshlite_endpoint_picks_total{address="10.0.0.1:80",service="catalog"} 7
meshlite_endpoint_picks_total{address="10.0.0.2:80",service="catalog"} 3
# HELP meshlite_endpoint_refusals_total Attempts that an endpoint has refused by a rate limit, saying when to come again.
# TYPE meshlite_endpoint_refusals_total counter
meshlite_endpoint_refusals_total{address="10.0.0.1:80",service="catalog"} 2
meshlite_endpoint_refusals_total{address="10.0.0.2:80",service="catalog"} 0
# HELP meshlite_endpoint_slow_start_ratio How far the slow start of an endpoint is, 1 without one.
# TYPE meshlite_endpoint_slow_start_ratio gauge
meshlite_endpoint_slow_start_ratio{address="10.0.0.1:80",service="catalog"} 1
meshlite_endpoint_slow_start_ratio{address="10.0.0.2:80",service="catalog"} 0.4
# HELP meshlite_endpoint_weight Weight of an endpoint in the directory.
# TYPE meshlite_endpoint_weight gauge
meshlite_endpoint_weight{address="10.0.0.1:80",service="catalog"} 3
meshlite_endpoint_weight{address="10.0.0.2:80",service="catalog"} 1
# HELP meshlite_endpoint_weight_ratio Part of all weight in rotation, with what slow start, failures and zones make of it.
# TYPE meshlite_endpoint_weight_ratio gauge
meshlite_endpoint_weight_ratio{address="10.0.0.1:80",service="catalog"} 0.75
meshlite_endpoint_weight_ratio{address="10.0.0.2:80",service="catalog"} 0.25
# HELP meshlite_endpoints Endpoints that channels have, by what they do with them.
# TYPE meshlite_endpoints gauge
meshlite_endpoints{service="catalog",state="ejected"} 1
meshlite_endpoints{service="catalog",state="in_rotation"} 1
meshlite_endpoints{service="catalog",state="no_connection"} 0
meshlite_endpoints{service="catalog",state="other_zone"} 0
meshlite_endpoints{service="catalog",state="slow_start"} 0
# HELP meshlite_ejections_total Ejections of endpoints.
# TYPE meshlite_ejections_total counter
meshlite_ejections_total{reason="consecutive_failures",service="catalog"} 0
meshlite_ejections_total{reason="probe",service="catalog"} 0
meshlite_ejections_total{reason="success_rate",service="catalog"} 0
# HELP meshlite_endpoints_panic 1 while so few endpoints can be used that the ejected are used, too.
# TYPE meshlite_endpoints_panic gauge
meshlite_endpoints_panic{service="catalog"} 0
`)
	if n := testutil.CollectAndCount(balancermetrics.New(nil)); n != 0 {
		t.Errorf("%d series of nothing", n)
	}
}

// A program may ask for one service in several ways, and several directories.
func TestTargetsOfOneServiceAreToldAsOne(t *testing.T) {
	well, sick := endpoint("10.0.0.1:80", 10), endpoint("10.0.0.1:80", 5)
	well.Part, well.Latency, well.InFlight = 0.5, 1, 1
	sick.Part, sick.Latency, sick.InFlight, sick.Warm, sick.State = 1, 3, 2, 0.5, balancer.SlowStarted
	more := endpoint("10.0.0.2:80", 1)
	more.Part = 0.5
	plain, tagged := table("catalog", "", well, more), table("catalog", "fast", sick)
	plain.Ejections = map[balancer.Reason]uint64{balancer.Probe: 2}
	tagged.Ejections, tagged.Panic = map[balancer.Reason]uint64{balancer.Probe: 3}, true
	all := seriestest.Of(plain, tagged, table("catalog", "")) // which another directory of that name was asked for
	compare(t, balancermetrics.New(all.Read), `
# HELP meshlite_ejections_total Ejections of endpoints.
# TYPE meshlite_ejections_total counter
meshlite_ejections_total{reason="consecutive_failures",service="catalog"} 0
meshlite_ejections_total{reason="probe",service="catalog"} 5
meshlite_ejections_total{reason="success_rate",service="catalog"} 0
# HELP meshlite_endpoint_in_flight Attempts that were sent to an endpoint and are not over.
# TYPE meshlite_endpoint_in_flight gauge
meshlite_endpoint_in_flight{address="10.0.0.1:80",service="catalog"} 3
meshlite_endpoint_in_flight{address="10.0.0.2:80",service="catalog"} 0
# HELP meshlite_endpoint_latency_seconds Time to the first response, an average that rises at once and falls slowly. None until it is known.
# TYPE meshlite_endpoint_latency_seconds gauge
meshlite_endpoint_latency_seconds{address="10.0.0.1:80",service="catalog"} 0.003
# HELP meshlite_endpoint_picks_total Attempts that were sent to an endpoint.
# TYPE meshlite_endpoint_picks_total counter
meshlite_endpoint_picks_total{address="10.0.0.1:80",service="catalog"} 15
meshlite_endpoint_picks_total{address="10.0.0.2:80",service="catalog"} 1
# HELP meshlite_endpoint_weight Weight of an endpoint in the directory.
# TYPE meshlite_endpoint_weight gauge
meshlite_endpoint_weight{address="10.0.0.1:80",service="catalog"} 1
meshlite_endpoint_weight{address="10.0.0.2:80",service="catalog"} 1
# HELP meshlite_endpoint_weight_ratio Part of all weight in rotation, with what slow start, failures and zones make of it.
# TYPE meshlite_endpoint_weight_ratio gauge
meshlite_endpoint_weight_ratio{address="10.0.0.1:80",service="catalog"} 0.75
meshlite_endpoint_weight_ratio{address="10.0.0.2:80",service="catalog"} 0.25
# HELP meshlite_endpoints Endpoints that channels have, by what they do with them.
# TYPE meshlite_endpoints gauge
meshlite_endpoints{service="catalog",state="ejected"} 0
meshlite_endpoints{service="catalog",state="in_rotation"} 1
meshlite_endpoints{service="catalog",state="no_connection"} 0
meshlite_endpoints{service="catalog",state="other_zone"} 0
meshlite_endpoints{service="catalog",state="slow_start"} 1
# HELP meshlite_endpoints_panic 1 while so few endpoints can be used that the ejected are used, too.
# TYPE meshlite_endpoints_panic gauge
meshlite_endpoints_panic{service="catalog"} 1
`, "meshlite_ejections_total", "meshlite_endpoint_in_flight", "meshlite_endpoint_latency_seconds", "meshlite_endpoint_picks_total",
		"meshlite_endpoint_weight", "meshlite_endpoint_weight_ratio", "meshlite_endpoints", "meshlite_endpoints_panic")
}

// A small service beside a huge one keeps the series of its own.
func TestAddressesAreBounded(t *testing.T) {
	var crowd, few []balancer.EndpointStats
	for i := range 1500 {
		e := endpoint(fmt.Sprintf("10.0.%d.%d:80", i/250, i%250), 1)
		e.InFlight, e.Part = 1, 1.0/1500
		crowd = append(crowd, e)
	}
	crowd[1400].State, crowd[1400].Reason = balancer.Ejected, balancer.Probe
	for i := range 100 {
		few = append(few, endpoint(fmt.Sprintf("10.1.0.%d:80", i), 1))
	}
	all := seriestest.Of(table("catalog", "", crowd...), table("prices", "", few...))
	registry := seriestest.Register(t, balancermetrics.New(all.Read))
	for name, rest := range map[string]float64{"meshlite_endpoint_picks_total": 600, "meshlite_endpoint_in_flight": 600,
		"meshlite_endpoint_weight": 600, "meshlite_endpoint_weight_ratio": 0.4, "meshlite_endpoint_slow_start_ratio": 1} {
		got := seriestest.Gather(t, registry, name)
		if len(got) != 1001 {
			t.Errorf("%s has %d series, want 1000 and the rest", name, len(got))
		}
		if other := got["other catalog"]; math.Abs(other-rest) > 1e-9 {
			t.Errorf("%s of the rest is %v, want %v", name, other, rest)
		}
	}
	if got := seriestest.Gather(t, registry, "meshlite_endpoint_ejected")["other catalog"]; got != 1 {
		t.Errorf("of the rest %v are ejected, want 1", got)
	}
	if n := len(seriestest.Gather(t, registry, "meshlite_endpoint_info")); n != 1000 {
		t.Errorf("%d endpoints have a locality, want 1000", n)
	}
	if got := seriestest.Gather(t, registry, "meshlite_endpoints")["catalog in_rotation"]; got != 1499 {
		t.Errorf("%v are in rotation, want all 1499", got)
	}
}

// rate takes what falls for a restart, and all that is left for an increase.
func TestCountersDoNotFallWithWhatIsGone(t *testing.T) {
	var crowd []balancer.EndpointStats
	for i := range 1500 {
		crowd = append(crowd, endpoint(fmt.Sprintf("host-%04d:80", i), 100))
	}
	both := endpoint("10.1.0.1:80", 10)
	tagged := table("prices", "fast", both)
	tagged.Ejections = map[balancer.Reason]uint64{balancer.Probe: 3}
	all := seriestest.Of(table("catalog", "", crowd...), table("prices", "", both), tagged)
	registry := seriestest.Register(t, balancermetrics.New(all.Read))
	expect := func(when, name, labels string, want float64) {
		t.Helper()
		if got := seriestest.Gather(t, registry, name)[labels]; got != want {
			t.Errorf("%s: %s of %s is %v, want %v", when, name, labels, got, want)
		}
	}
	const picks = "meshlite_endpoint_picks_total"
	expect("at first", picks, "other catalog", 100*501) // prices has the other one
	expect("at first", picks, "10.1.0.1:80 prices", 20)

	// The last of the crowd leaves, and so does one of two channels to prices.
	both.Picks = 12
	all.Set(table("catalog", "", crowd[:1499]...), table("prices", "", both))
	expect("when a part has gone", picks, "other catalog", 100*501)
	expect("when a part has gone", picks, "10.1.0.1:80 prices", 22)
	expect("when a part has gone", "meshlite_ejections_total", "probe prices", 3)

	// Both come back with a little more, and one of the crowd has a name of its own now.
	both.Picks = 15
	crowd[1499].Picks = 101
	tagged = table("prices", "fast", both)
	tagged.Ejections = map[balancer.Reason]uint64{balancer.Probe: 4}
	all.Set(table("catalog", "", crowd[1:]...), table("prices", "", both), tagged)
	expect("when it is back", picks, "other catalog", 100*501+1)
	expect("when it is back", picks, "10.1.0.1:80 prices", 22+3+5)
	expect("when it is back", "meshlite_ejections_total", "probe prices", 4)
	expect("when it is back", picks, "host-0999:80 catalog", 0)

	// A table that was forgotten counts from 0.
	both.Picks = 1
	all.Set(table("prices", "", both))
	expect("when it is forgotten", picks, "10.1.0.1:80 prices", 30)
	both.Picks = 3
	all.Set(table("prices", "", both))
	expect("after that", picks, "10.1.0.1:80 prices", 32)
}

// Another instance at the address of one that has gone.
func TestAnotherInstanceAtAnAddressGoesOn(t *testing.T) {
	all := seriestest.Of(table("catalog", "", endpoint("10.0.0.1:80", 5)))
	registry := seriestest.Register(t, balancermetrics.New(all.Read))
	seriestest.Gather(t, registry, "")
	next := endpoint("10.0.0.1:80", 2)
	next.ID = "catalog-2"
	all.Set(table("catalog", "", next))
	if got := seriestest.Gather(t, registry, "meshlite_endpoint_picks_total")["10.0.0.1:80 catalog"]; got != 7 {
		t.Errorf("the address has had %v picks, want 7", got)
	}
}

// Many come and go, and what is remembered of them is bounded.
func TestCountersForgetWhatIsGoneForLong(t *testing.T) {
	racetest.Skip(t)
	all := seriestest.Of[resolver.Picks]()
	registry := seriestest.Register(t, balancermetrics.New(all.Read))
	for round := range 20 {
		list := []balancer.EndpointStats{endpoint("10.0.0.1:80", uint64(round))}
		for i := range 1000 {
			list = append(list, endpoint(fmt.Sprintf("[::%x:%x]:80", round+1, i), 1))
		}
		all.Set(table("catalog", "", list...))
		got := seriestest.Gather(t, registry, "meshlite_endpoint_picks_total")
		if n := got["10.0.0.1:80 catalog"]; n != float64(round) {
			t.Fatalf("in round %d the one that stays has %v picks", round, n)
		}
	}
}

// Consul takes any bytes, and no scrape may fail for them.
func TestNamesThatAreNoTextAreToldAsWell(t *testing.T) {
	one, two := endpoint("\xff:80", 1), endpoint("\xfe:80", 2)
	one.Zone, one.Region, one.ID = "a\xff", "\xff", "\xff"
	all := seriestest.Of(table("cat\xff", "\xff", one, two), table("cat\xfe", "", one))
	registry := seriestest.Register(t, balancermetrics.New(all.Read))
	if got := seriestest.Gather(t, registry, "meshlite_endpoint_picks_total"); len(got) != 1 || got["?:80 cat?"] != 4 {
		t.Errorf("the picks are %v", got)
	}
	if got := seriestest.Gather(t, registry, "meshlite_endpoint_info"); got["?:80 ? cat? a?"] != 1 {
		t.Errorf("the places are %v", got)
	}
}

func TestScrapesMayOverlap(t *testing.T) {
	all := seriestest.Of[resolver.Picks]()
	registry := seriestest.Register(t, balancermetrics.New(all.Read))
	seriestest.Overlap(t, registry, func() {
		for n := range uint64(100) {
			all.Set(table("catalog", "", endpoint("10.0.0.1:80", n)))
		}
	})
	if got := seriestest.Gather(t, registry, "meshlite_endpoint_picks_total")["10.0.0.1:80 catalog"]; got != 99 {
		t.Errorf("%v picks are reported, want 99", got)
	}
}

func TestMetricsAreWellNamed(t *testing.T) {
	e := endpoint("10.0.0.1:80", 1)
	e.Latency = 1
	all := seriestest.Of(table("catalog", "", e))
	problems, err := testutil.CollectAndLint(balancermetrics.New(all.Read))
	if err != nil || len(problems) > 0 {
		t.Errorf("the linter of Prometheus says %v %v", problems, err)
	}
}

func TestASecondCollectorIsRefused(t *testing.T) {
	all := seriestest.Of(table("catalog", "", endpoint("10.0.0.1:80", 1)))
	seriestest.RefusesASecond(t, func() prometheus.Collector { return balancermetrics.New(all.Read) })
}
