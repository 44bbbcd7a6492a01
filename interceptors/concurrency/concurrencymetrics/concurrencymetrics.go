// Package concurrencymetrics exports the state of concurrency limits to Prometheus: what
// they are now, how many handlers run, and how many priorities were ignored.
//
// The numbers are read when they are collected; no call counts anything for it:
//
//	limiter, err := concurrency.New()
//	registry.MustRegister(concurrencymetrics.New(limiter.Stats))
//
// A meshlite.Runtime does so by itself. The results of calls are counted by
// package interceptors/metrics.
package concurrencymetrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	"github.com/meshlite-go/meshlite/internal/series"
)

// collector is a [prometheus.Collector].
type collector struct{ stats func() []concurrency.Stats }

// New makes a collector of what stats returns, which must be safe for concurrent use and
// may be nil.
func New(stats func() []concurrency.Stats) prometheus.Collector {
	if stats == nil {
		stats = func() []concurrency.Stats { return nil }
	}
	return collector{stats}
}

var (
	labels = []string{"grpc_service", "grpc_method"}

	limit = prometheus.NewDesc("meshlite_concurrency_limit",
		"Calls of a method that may run at once.", labels, nil)
	inFlight = prometheus.NewDesc("meshlite_concurrency_in_flight",
		"Calls of a method with a limit that run.", labels, nil)
	ignored = prometheus.NewDesc("meshlite_concurrency_ignored_priorities_total",
		"Priorities that were unknown, or of a caller who is not trusted.", labels, nil)
)

// Describe implements [prometheus.Collector].
func (c collector) Describe(to chan<- *prometheus.Desc) {
	to <- limit
	to <- inFlight
	to <- ignored
}

// Collect implements [prometheus.Collector].
func (c collector) Collect(to chan<- prometheus.Metric) {
	for name, s := range merge(c.stats()) {
		series.Gauge(to, limit, float64(s.Limit), name.service, name.method)
		series.Gauge(to, inFlight, float64(s.InFlight), name.service, name.method)
		series.Count(to, ignored, s.Ignored, name.service, name.method)
	}
}

type name struct{ service, method string }

// merge sums methods whose names are equal once they are valid UTF-8: two series of one
// name would fail the scrape.
func merge(all []concurrency.Stats) map[name]concurrency.Stats {
	merged := map[name]concurrency.Stats{}
	for _, s := range all {
		var n name
		n.service, n.method = series.Method(s.Method)
		sum := merged[n]
		sum.Limit += s.Limit
		sum.InFlight += s.InFlight
		sum.Ignored += s.Ignored
		merged[n] = sum
	}
	return merged
}
