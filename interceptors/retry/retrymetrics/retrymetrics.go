// Package retrymetrics exports to Prometheus how much of the retry budgets is left.
//
// The numbers are read when they are collected; no call counts anything for it:
//
//	retrying, err := retry.New()
//	registry.MustRegister(retrymetrics.New(retrying.Stats))
//
// A meshlite.Runtime does so by itself. Attempts, and retries that a budget did not
// allow, are counted by Attempt of package interceptors/metrics.
package retrymetrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/interceptors/retry"
	"github.com/meshlite-go/meshlite/internal/series"
)

// collector is a [prometheus.Collector].
type collector struct{ stats func() []retry.Stats }

// New makes a collector of what stats answers, which must be safe for concurrent use and
// may be nil. Of several budgets of a method, as channels have them, it exports the least.
func New(stats func() []retry.Stats) prometheus.Collector {
	if stats == nil {
		stats = func() []retry.Stats { return nil }
	}
	return collector{stats}
}

var budget = prometheus.NewDesc("meshlite_retry_budget_tokens",
	"Retries that the budget of a method has left, at the channel that has the fewest.",
	[]string{"grpc_service", "grpc_method"}, nil)

// Describe implements [prometheus.Collector].
func (c collector) Describe(to chan<- *prometheus.Desc) { to <- budget }

// Collect implements [prometheus.Collector].
func (c collector) Collect(to chan<- prometheus.Metric) {
	least := map[name]float64{}
	for _, s := range c.stats() {
		var n name
		n.service, n.method = series.Method(s.Method)
		if other, ok := least[n]; !ok || s.Budget < other {
			least[n] = s.Budget
		}
	}
	for n, left := range least {
		series.Gauge(to, budget, left, n.service, n.method)
	}
}

type name struct{ service, method string }
