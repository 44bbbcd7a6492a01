// Package balancermetrics exports to Prometheus how calls are spread over endpoints: picks,
// latency to the first response, ejections and their reasons.
//
// The numbers are read when they are collected; no call counts anything for it:
//
//	builder := resolver.NewBuilder(directory)
//	registry.MustRegister(balancermetrics.New(builder.Picks))
//
// A meshlite.Runtime does so by itself.
//
// The label of an endpoint is "address", as Prometheus has a use of its own for
// "instance". At most 1,000 addresses are exported, shared fairly among services; the
// others of a service are one more, "other", with their sum or, of what cannot be added, the
// worst value. So is an endpoint that several targets of one service have.
//
// The series of an endpoint ends when no channel has it, and those of a service end
// while all its channels are closed or idle. Both begin anew when they are back, which
// rate and increase take for a restart. Counters that are put together never fall
// because a part of them is gone.
package balancermetrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/internal/series"
	"github.com/meshlite-go/meshlite/resolver"
)

// collector is a [prometheus.Collector].
type collector struct {
	tables func() []resolver.Picks

	mu        sync.Mutex
	picks     series.Counters[pickSource, endpointLabels]
	refusals  series.Counters[pickSource, endpointLabels]
	ejections series.Counters[ejectionSource, ejectionLabels]
}

// New makes a collector of what picks answers, which must be safe for concurrent use
// and may be nil.
func New(picks func() []resolver.Picks) prometheus.Collector {
	if picks == nil {
		picks = func() []resolver.Picks { return nil }
	}
	return &collector{tables: picks}
}

var (
	ofService  = []string{"service"}
	ofEndpoint = []string{"service", "address"}

	picked = prometheus.NewDesc("meshlite_endpoint_picks_total",
		"Attempts that were sent to an endpoint.", ofEndpoint, nil)
	refused = prometheus.NewDesc("meshlite_endpoint_refusals_total",
		"Attempts that an endpoint has refused by a rate limit, saying when to come again.", ofEndpoint, nil)
	inFlight = prometheus.NewDesc("meshlite_endpoint_in_flight",
		"Attempts that were sent to an endpoint and are not over.", ofEndpoint, nil)
	latency = prometheus.NewDesc("meshlite_endpoint_latency_seconds",
		"Time to the first response, an average that rises at once and falls slowly. None until it is known.", ofEndpoint, nil)
	weight = prometheus.NewDesc("meshlite_endpoint_weight",
		"Weight of an endpoint in the directory.", ofEndpoint, nil)
	part = prometheus.NewDesc("meshlite_endpoint_weight_ratio",
		"Part of all weight in rotation, with what slow start, failures and zones make of it.", ofEndpoint, nil)
	failing = prometheus.NewDesc("meshlite_endpoint_failing_ratio",
		"Part of the latest attempts that an endpoint has not answered.", ofEndpoint, nil)
	warm = prometheus.NewDesc("meshlite_endpoint_slow_start_ratio",
		"How far the slow start of an endpoint is, 1 without one.", ofEndpoint, nil)
	ejected = prometheus.NewDesc("meshlite_endpoint_ejected",
		"1 while an endpoint is ejected because it fails. Of \"other\", how many are.", ofEndpoint, nil)
	info = prometheus.NewDesc("meshlite_endpoint_info",
		"1, with where an endpoint is.", append(ofEndpoint, "region", "zone"), nil)

	endpoints = prometheus.NewDesc("meshlite_endpoints",
		"Endpoints that channels have, by what they do with them.", append(ofService, "state"), nil)
	ejections = prometheus.NewDesc("meshlite_ejections_total",
		"Ejections of endpoints.", append(ofService, "reason"), nil)
	panicking = prometheus.NewDesc("meshlite_endpoints_panic",
		"1 while so few endpoints can be used that the ejected are used, too.", ofService, nil)
)

// Describe implements [prometheus.Collector].
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		picked, refused, inFlight, latency, weight, part, failing, warm, ejected, info,
		endpoints, ejections, panicking,
	} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(to chan<- prometheus.Metric) {
	services, picks, refusals, out := c.look()
	for _, s := range services {
		s.collect(to)
	}
	for labels, n := range picks {
		series.Count(to, picked, n, labels.service, labels.address)
	}
	for labels, n := range refusals {
		series.Count(to, refused, n, labels.service, labels.address)
	}
	for labels, n := range out {
		series.Count(to, ejections, n, labels.service, labels.reason)
	}
}

// look reads the tables. Two looks at once would count what has come since twice.
func (c *collector) look() (services map[string]*service, picks, refusals map[endpointLabels]uint64, out map[ejectionLabels]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	tables := c.tables()
	services = merge(tables)
	limit(services)
	labels := func(s pickSource) endpointLabels {
		return endpointLabels{s.service, services[s.service].labelOf(s.address)}
	}
	picks = c.picks.Grow(picksOf(tables, func(e balancer.EndpointStats) uint64 { return e.Picks }), labels)
	refusals = c.refusals.Grow(picksOf(tables, func(e balancer.EndpointStats) uint64 { return e.Refusals }), labels)
	out = c.ejections.Grow(ejectionsOf(tables), func(s ejectionSource) ejectionLabels {
		return ejectionLabels{s.service, s.reason}
	})
	return services, picks, refusals, out
}

func (s *service) collect(to chan<- prometheus.Metric) {
	var sum float64
	for _, e := range s.endpoints {
		sum += e.part
	}
	for address, e := range s.endpoints {
		e.collect(to, max(sum, 1), s.name, address)
	}
	for i, state := range states {
		series.Gauge(to, endpoints, float64(s.states[i]), s.name, string(state))
	}
	series.Gauge(to, panicking, series.Float(s.panicking), s.name)
}

// collect exports one address. The parts of a service that is watched in several
// ways add up to sum, which is more than 1.
func (e *endpoint) collect(to chan<- prometheus.Metric, sum float64, labels ...string) {
	series.Gauge(to, inFlight, float64(e.inFlight), labels...)
	if e.latency > 0 {
		series.Gauge(to, latency, e.latency, labels...)
	}
	series.Gauge(to, weight, e.weight, labels...)
	series.Gauge(to, part, e.part/sum, labels...)
	series.Gauge(to, failing, e.failing, labels...)
	series.Gauge(to, warm, e.warm, labels...)
	series.Gauge(to, ejected, e.ejected, labels...)
	if labels[1] != other {
		series.Gauge(to, info, 1, append(labels, e.region, e.zone)...)
	}
}
