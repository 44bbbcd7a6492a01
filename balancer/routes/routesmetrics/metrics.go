// Package routesmetrics exports to Prometheus how calls are spread over the arms of routes:
// weights, shares, what is alive, attempts, and calls by their result.
//
// The numbers are read when they are collected; no call counts anything for it:
//
//	registry.MustRegister(routesmetrics.New(func() []routes.Stats { return []routes.Stats{router.Stats()} }))
//
// A meshlite.Runtime does so by itself.
//
// The channels to one service are exported together. At most 300 arms of all services have
// series of their own, shared fairly among services. The attempts and calls of the others are
// counted in one more of each service, whose route and arm are "other".
//
// The series of an arm ends when no channel has it in its chain, and begins anew when it is
// back, which rate and increase take for a restart.
package routesmetrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/internal/series"
)

// collector is a [prometheus.Collector].
type collector struct {
	stats func() []routes.Stats

	mu     sync.Mutex
	picks  series.Counters[source, source]
	counts series.Counters[source, source]
}

// source is what routers to one service count together; result is "" of attempts.
type source struct {
	service string
	key     armKey
	result  string
}

// New makes a collector of what stats returns, which must be safe for concurrent use and may
// be nil.
func New(stats func() []routes.Stats) prometheus.Collector {
	if stats == nil {
		stats = func() []routes.Stats { return nil }
	}
	return &collector{stats: stats}
}

var (
	ofArm = []string{"service", "route", "arm"}

	chains = prometheus.NewDesc("meshlite_route_chains",
		"Channels by the discovery chain that they go by.", []string{"service", "state"}, nil)
	weight = prometheus.NewDesc("meshlite_route_arm_weight_ratio",
		"Weight of an arm in the discovery chain.", ofArm, nil)
	share = prometheus.NewDesc("meshlite_route_arm_share_ratio",
		"Part of the calls of its route that an arm has now, its failover included.", ofArm, nil)
	failover = prometheus.NewDesc("meshlite_route_arm_failover_ratio",
		"Part of the calls of its route that go to the failover targets of an arm now.", ofArm, nil)
	usable = prometheus.NewDesc("meshlite_route_arm_usable_endpoints",
		"Endpoints of the target of an arm that calls can go to, at the channel that has the fewest.", ofArm, nil)
	known = prometheus.NewDesc("meshlite_route_arm_known_instances",
		"Instances of the target of an arm in the directory, the unhealthy included, at the channel that has the fewest usable.", ofArm, nil)
	picked = prometheus.NewDesc("meshlite_route_arm_picks_total",
		"Attempts that were sent to an arm.", ofArm, nil)
	calls = prometheus.NewDesc("meshlite_route_arm_calls_total",
		"Calls that have ended, by the arm of their last attempt.", []string{"service", "route", "arm", "result"}, nil)
)

// Describe implements [prometheus.Collector].
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{chains, weight, share, failover, usable, known, picked, calls} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(to chan<- prometheus.Metric) {
	services, attempts, ends := c.look()
	for _, s := range services {
		s.collect(to)
	}
	for of, n := range attempts {
		series.Count(to, picked, n, of.service, of.key.route, of.key.arm)
	}
	for of, n := range ends {
		series.Count(to, calls, n, of.service, of.key.route, of.key.arm, of.result)
	}
}

// look reads the routers. Two looks at once would count what has come since twice.
func (c *collector) look() (services map[string]*service, attempts, ends map[source]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.stats()
	services = merge(all)
	limit(services)
	labels := func(of source) source {
		return source{of.service, services[of.service].labelsOf(of.key), of.result}
	}
	attempted, ended := countsOf(all)
	return services, c.picks.Grow(attempted, labels), c.counts.Grow(ended, labels)
}

// countsOf sums what the routers have counted.
func countsOf(all []routes.Stats) (attempted, ended map[source]uint64) {
	attempted, ended = map[source]uint64{}, map[source]uint64{}
	for _, stats := range all {
		name := series.Text(stats.Service)
		eachArm(stats, func(key armKey, a routes.ArmStats) {
			for _, t := range a.Targets {
				attempted[source{name, key, ""}] += t.Picked
				ended[source{name, key, "succeeded"}] += t.Succeeded
				ended[source{name, key, "failed"}] += t.Failed
			}
		})
	}
	return attempted, ended
}

func (s *service) collect(to chan<- prometheus.Metric) {
	for i, state := range states {
		series.Gauge(to, chains, float64(s.states[i]), s.name, state)
	}
	for key, a := range s.arms {
		labels := []string{s.name, key.route, key.arm}
		whole := 100 * a.channels
		series.Gauge(to, weight, a.weight/whole, labels...)
		series.Gauge(to, share, a.share/whole, labels...)
		series.Gauge(to, failover, a.failover/whole, labels...)
		series.Gauge(to, usable, float64(a.usable), labels...)
		series.Gauge(to, known, float64(a.known), labels...)
	}
}
