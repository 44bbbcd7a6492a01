package routesmetrics_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/balancer/routes/routesmetrics"
	"github.com/meshlite-go/meshlite/internal/series/seriestest"
	"github.com/meshlite-go/meshlite/resolver/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	router, err := routes.NewRouter()
	if err != nil {
		fmt.Println(err)
		return
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(routesmetrics.New(func() []routes.Stats { return []routes.Stats{router.Stats()} }))
	n, err := testutil.GatherAndCount(registry, "meshlite_route_chains")
	fmt.Println(n, err) // a router without a chain has no series
	// Output: 0 <nil>
}

// chain is that of service, with one route.
func chain(service string, arms ...routes.ArmStats) routes.Stats {
	return routes.Stats{Service: service, Datacenter: "dc1", Routes: []routes.RouteStats{{Name: "default", Arms: arms}}}
}

// armOf has one target with all of its share.
func armOf(name string, weight, share float64, usable int, counted uint64) routes.ArmStats {
	return routes.ArmStats{Name: name, Weight: weight, Share: share, Targets: []routes.TargetStats{
		{ID: name, Usable: usable, Known: 4, Share: share, Picked: 2 * counted, Succeeded: counted, Failed: 1}}}
}

// Case metrics
func TestEachArmIsMeasured(t *testing.T) {
	v1, v2 := armOf("v1", 90, 100, 3, 7), armOf("v2", 10, 0, 0, 2)
	v1.Targets[0].Share = 75
	v1.Targets = append(v1.Targets, routes.TargetStats{ID: "elsewhere", Usable: 9, Known: 9, Share: 25, Picked: 5, Succeeded: 5})
	p := seriestest.Of(chain("catalog", v1, v2), routes.Stats{}) // and one by plain discovery
	want := `
# HELP meshlite_route_arm_calls_total Calls that have ended, by the arm of their last attempt.
# TYPE meshlite_route_arm_calls_total counter
meshlite_route_arm_calls_total{arm="v1",result="failed",route="default",service="catalog"} 1
meshlite_route_arm_calls_total{arm="v1",result="succeeded",route="default",service="catalog"} 12
meshlite_route_arm_calls_total{arm="v2",result="failed",route="default",service="catalog"} 1
meshlite_route_arm_calls_total{arm="v2",result="succeeded",route="default",service="catalog"} 2
# HELP meshlite_route_arm_failover_ratio Part of the calls of its route that go to the failover targets of an arm now.
# TYPE meshlite_route_arm_failover_ratio gauge
meshlite_route_arm_failover_ratio{arm="v1",route="default",service="catalog"} 0.25
meshlite_route_arm_failover_ratio{arm="v2",route="default",service="catalog"} 0
# HELP meshlite_route_arm_known_instances Instances of the target of an arm in the directory, the unhealthy included, at the channel that has the fewest usable.
# TYPE meshlite_route_arm_known_instances gauge
meshlite_route_arm_known_instances{arm="v1",route="default",service="catalog"} 4
meshlite_route_arm_known_instances{arm="v2",route="default",service="catalog"} 4
# HELP meshlite_route_arm_picks_total Attempts that were sent to an arm.
# TYPE meshlite_route_arm_picks_total counter
meshlite_route_arm_picks_total{arm="v1",route="default",service="catalog"} 19
meshlite_route_arm_picks_total{arm="v2",route="default",service="catalog"} 4
# HELP meshlite_route_arm_share_ratio Part of the calls of its route that an arm has now, its failover included.
# TYPE meshlite_route_arm_share_ratio gauge
meshlite_route_arm_share_ratio{arm="v1",route="default",service="catalog"} 1
meshlite_route_arm_share_ratio{arm="v2",route="default",service="catalog"} 0
# HELP meshlite_route_arm_usable_endpoints Endpoints of the target of an arm that calls can go to, at the channel that has the fewest.
# TYPE meshlite_route_arm_usable_endpoints gauge
meshlite_route_arm_usable_endpoints{arm="v1",route="default",service="catalog"} 3
meshlite_route_arm_usable_endpoints{arm="v2",route="default",service="catalog"} 0
# HELP meshlite_route_arm_weight_ratio Weight of an arm in the discovery chain.
# TYPE meshlite_route_arm_weight_ratio gauge
meshlite_route_arm_weight_ratio{arm="v1",route="default",service="catalog"} 0.9
meshlite_route_arm_weight_ratio{arm="v2",route="default",service="catalog"} 0.1
# HELP meshlite_route_chains Channels by the discovery chain that they go by.
# TYPE meshlite_route_chains gauge
meshlite_route_chains{service="catalog",state="current"} 1
meshlite_route_chains{service="catalog",state="failing"} 0
meshlite_route_chains{service="catalog",state="stale"} 0
`
	if err := testutil.CollectAndCompare(routesmetrics.New(p.Read), strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(routesmetrics.New(p.Read)); err != nil || len(problems) > 0 {
		t.Errorf("the linter of Prometheus finds %v %v", problems, err)
	}
	if n := testutil.CollectAndCount(routesmetrics.New(nil)); n != 0 {
		t.Errorf("%d series of nothing", n)
	}
}

// Channels to one service are one, with the worst of what is alive.
func TestChannelsOfOneServiceAreExportedTogether(t *testing.T) {
	behind := chain("catalog", armOf("v1", 100, 100, 4, 1), armOf("v2", 0, 0, 4, 0))
	behind.Error = "refused"
	p := seriestest.Of(chain("catalog", armOf("v1", 50, 60, 2, 5), armOf("v2", 50, 40, 3, 5)), behind)
	registry := seriestest.Register(t, routesmetrics.New(p.Read))
	for name, want := range map[string]map[string]float64{
		"meshlite_route_chains":               {"catalog current": 1, "catalog stale": 1, "catalog failing": 0},
		"meshlite_route_arm_weight_ratio":     {"v1 default catalog": 0.75, "v2 default catalog": 0.25},
		"meshlite_route_arm_share_ratio":      {"v1 default catalog": 0.8, "v2 default catalog": 0.2},
		"meshlite_route_arm_usable_endpoints": {"v1 default catalog": 2, "v2 default catalog": 3},
		"meshlite_route_arm_picks_total":      {"v1 default catalog": 12, "v2 default catalog": 10},
	} {
		got := seriestest.Gather(t, registry, name)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// rate takes what falls for a restart, and all that is left for an increase.
func TestCountersDoNotFallWithAChannelOrAnArm(t *testing.T) {
	p := seriestest.Of(chain("catalog", armOf("v1", 50, 50, 1, 10), armOf("v2", 50, 50, 1, 4)), chain("catalog", armOf("v1", 50, 50, 1, 20)))
	registry := seriestest.Register(t, routesmetrics.New(p.Read))
	const picks = "meshlite_route_arm_picks_total"
	expect := func(when string, want map[string]float64) {
		t.Helper()
		if got := seriestest.Gather(t, registry, picks); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	expect("at first", map[string]float64{"v1 default catalog": 60, "v2 default catalog": 8})
	p.Set(chain("catalog", armOf("v1", 100, 100, 1, 10)))
	expect("without the second channel and v2", map[string]float64{"v1 default catalog": 60})
	p.Set(chain("catalog", armOf("v1", 50, 50, 1, 11), armOf("v2", 50, 50, 1, 5)))
	expect("when v2 is back", map[string]float64{"v1 default catalog": 62, "v2 default catalog": 2})
}

// 1,000 routes make no more series than 300 arms, and a small service keeps those of its own.
func TestSeriesAreBounded(t *testing.T) {
	large := routes.Stats{Service: "catalog"}
	for i := range 1000 {
		large.Routes = append(large.Routes, routes.RouteStats{Name: fmt.Sprintf("route %04d", i), Arms: []routes.ArmStats{
			armOf("v1", 90, 90, 1, 3), armOf("v2", 10, 10, 1, 1)}})
	}
	p := seriestest.Of(large, chain("prices", armOf("v1", 90, 90, 1, 1), armOf("v2", 10, 10, 1, 1)))
	registry := seriestest.Register(t, routesmetrics.New(p.Read))
	for name, want := range map[string]int{
		"meshlite_route_arm_weight_ratio": 300, "meshlite_route_arm_share_ratio": 300, "meshlite_route_arm_failover_ratio": 300,
		"meshlite_route_arm_usable_endpoints": 300, "meshlite_route_arm_known_instances": 300,
		"meshlite_route_arm_picks_total": 301, "meshlite_route_arm_calls_total": 2 * 301, "meshlite_route_chains": 2 * 3,
	} {
		if n := len(seriestest.Gather(t, registry, name)); n != want {
			t.Errorf("%s has %d series, want %d", name, n, want)
		}
	}
	picks := seriestest.Gather(t, registry, "meshlite_route_arm_picks_total")
	if own, rest := picks["v2 default prices"], picks["other other catalog"]; own != 2 || rest != (1000-149)*(6+2) {
		t.Errorf("the small service has %v attempts and the rest of the large one %v", own, rest)
	}
}

// Consul takes any bytes, and no scrape may fail for them.
func TestNamesThatAreNoTextAreExported(t *testing.T) {
	p := seriestest.Of(chain("cat\xff", armOf("v\xff", 50, 50, 1, 1), armOf("v\xfe", 50, 50, 1, 1)))
	if got := seriestest.Gather(t, seriestest.Register(t, routesmetrics.New(p.Read)), "meshlite_route_arm_picks_total"); got["v? default cat?"] != 4 || len(got) != 1 {
		t.Errorf("the attempts are %v", got)
	}
}

// A router whose first chain is refused fails calls; one that had none before goes on by plain
// discovery.
//
// Case T7
func TestARefusedChainIsMeasured(t *testing.T) {
	refused := &route.RefusedError{Service: "catalog", Index: 7, Parts: []string{"QueryParam"}}
	for _, test := range []struct {
		want  string
		later bool
	}{{"catalog failing", false}, {"catalog stale", true}} {
		router, err := routes.NewRouter()
		if err != nil {
			t.Fatal(err)
		}
		if test.later {
			router.Update(nil, nil)
		}
		router.Update(nil, refused)
		_, _, err = router.Choose(context.Background(), "/shop.Catalog/Get")
		if (err == nil) != test.later {
			t.Errorf("%s: calls get %v", test.want, err)
		}
		p := seriestest.Of(router.Stats())
		got := seriestest.Gather(t, seriestest.Register(t, routesmetrics.New(p.Read)), "meshlite_route_chains")
		if got[test.want] != 1 || len(got) != 3 || got["catalog current"] != 0 {
			t.Errorf("the channels are %v, want one %s", got, test.want)
		}
	}
}

func TestScrapesMayOverlap(t *testing.T) {
	p := seriestest.Of[routes.Stats]()
	registry := seriestest.Register(t, routesmetrics.New(p.Read))
	seriestest.Overlap(t, registry, func() {
		for n := range uint64(100) {
			p.Set(chain("catalog", armOf("v1", 100, 100, 1, n)))
		}
	})
	if got := seriestest.Gather(t, registry, "meshlite_route_arm_picks_total")["v1 default catalog"]; got != 2*99 {
		t.Errorf("%v attempts are exported, want 198", got)
	}
}

func TestASecondCollectorIsRefused(t *testing.T) {
	p := seriestest.Of(chain("catalog", armOf("v1", 100, 100, 1, 1)))
	seriestest.RefusesASecond(t, func() prometheus.Collector { return routesmetrics.New(p.Read) })
}
