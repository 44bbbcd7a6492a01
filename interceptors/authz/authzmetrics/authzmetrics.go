// Package authzmetrics exports to Prometheus what authorizers decide, and whether they can
// read the intentions that they decide by.
//
// The numbers are read when they are collected; no call counts anything for it:
//
//	authorized, err := authz.New("catalog", authz.WithWatcher(directory))
//	registry.MustRegister(authzmetrics.New(func() []authz.Stats { return []authz.Stats{authorized.Stats()} }))
//
// A meshlite.Runtime does so by itself, for those that are given to its servers.
package authzmetrics

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/interceptors/authz"
)

// collector is a [prometheus.Collector].
type collector struct{ stats func() []authz.Stats }

// New makes a collector of what stats returns, which must be safe for concurrent use and may
// be nil. Those of one service are added up.
func New(stats func() []authz.Stats) prometheus.Collector {
	if stats == nil {
		stats = func() []authz.Stats { return nil }
	}
	return collector{stats}
}

var (
	calls = prometheus.NewDesc("meshlite_authz_calls_total",
		"Calls and streams that were decided about, and open streams that were revoked, by result.", []string{"service", "result"}, nil)
	intentions = prometheus.NewDesc("meshlite_authz_intentions",
		"Intentions in force.", []string{"service"}, nil)
	refused = prometheus.NewDesc("meshlite_authz_refused_intentions",
		"Intentions in force that are not understood, and deny or match nobody.", []string{"service"}, nil)
	readAt = prometheus.NewDesc("meshlite_authz_read_timestamp_seconds",
		"When intentions were read last. 0 is never: all calls are denied.", []string{"service"}, nil)
)

// Describe implements [prometheus.Collector].
func (c collector) Describe(to chan<- *prometheus.Desc) {
	to <- calls
	to <- intentions
	to <- refused
	to <- readAt
}

// Collect implements [prometheus.Collector].
func (c collector) Collect(to chan<- prometheus.Metric) {
	for service, s := range merge(c.stats()) {
		for result, n := range map[string]uint64{
			"allowed": s.Allowed, "denied_by_rule": s.Denied.Rule, "denied_by_default": s.Denied.Default,
			"denied_without_identity": s.Denied.Identity, "denied_never_read": s.Denied.NeverRead, "revoked": s.Revoked,
		} {
			to <- prometheus.MustNewConstMetric(calls, prometheus.CounterValue, float64(n), service, result)
		}
		to <- prometheus.MustNewConstMetric(intentions, prometheus.GaugeValue, float64(s.Intentions), service)
		to <- prometheus.MustNewConstMetric(refused, prometheus.GaugeValue, float64(len(s.Refused)), service)
		to <- prometheus.MustNewConstMetric(readAt, prometheus.GaugeValue, seconds(s.ReadAt), service)
	}
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// merge sums those of one service: two series of one name would fail the scrape. Of times
// the oldest counts.
func merge(all []authz.Stats) map[string]authz.Stats {
	merged := map[string]authz.Stats{}
	for _, s := range all {
		name := strings.ToValidUTF8(s.Service, "?")
		if sum, ok := merged[name]; ok {
			s.Allowed += sum.Allowed
			s.Denied.Rule += sum.Denied.Rule
			s.Denied.Default += sum.Denied.Default
			s.Denied.Identity += sum.Denied.Identity
			s.Denied.NeverRead += sum.Denied.NeverRead
			s.Revoked += sum.Revoked
			s.Intentions = max(s.Intentions, sum.Intentions)
			if sum.ReadAt.Before(s.ReadAt) {
				s.ReadAt = sum.ReadAt
			}
			if len(sum.Refused) > len(s.Refused) {
				s.Refused = sum.Refused
			}
		}
		merged[name] = s
	}
	return merged
}
