// Package cachemetrics exports to Prometheus how full caches are, and what they do beside
// calls: refreshes, invalidations, and the use of a shared store.
//
// The numbers are read when they are collected; no call counts anything for it:
//
//	answers, err := cache.New()
//	registry.MustRegister(cachemetrics.New(func() map[string]cache.Stats {
//		return map[string]cache.Stats{"answers": answers.Stats()}
//	}))
//
// A meshlite.Runtime does so by itself. Results of calls are counted by package
// interceptors/metrics.
package cachemetrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/interceptors/cache"
)

// collector is a [prometheus.Collector].
type collector struct{ stats func() map[string]cache.Stats }

// New makes a collector of what stats answers by the name of a cache, which must be safe
// for concurrent use and may be nil. There are as many series as it gives names.
func New(stats func() map[string]cache.Stats) prometheus.Collector {
	if stats == nil {
		stats = func() map[string]cache.Stats { return nil }
	}
	return collector{stats}
}

// series is one metric, and how it is read.
type series struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(cache.Stats) float64
	more []string // label values beside the cache
}

var (
	refreshes = desc("refreshes_total", "Answers that were refreshed in the background, by result.", "result")

	all = []series{
		gauge("entries", "Answers in memory, about.", func(s cache.Stats) float64 { return float64(s.Entries) }),
		gauge("bytes", "Memory of answers, about.", func(s cache.Stats) float64 { return float64(s.Bytes) }),
		gauge("max_bytes", "Bound of the memory of answers.", func(s cache.Stats) float64 { return float64(s.MaxBytes) }),
		counter("stored_total", "Answers that were stored.", func(s cache.Stats) uint64 { return s.Stored }),
		counter("evictions_total", "Answers that were evicted to make room.", func(s cache.Stats) uint64 { return s.Evicted }),
		counter("invalidations_total", "Invalidations by this process.", func(s cache.Stats) uint64 { return s.Invalidations }),
		counter("ignored_directives_total", "cache-control of callers who are not trusted.", func(s cache.Stats) uint64 { return s.IgnoredDirectives }),
		counter("store_hits_total", "Answers that were found in the shared store.", func(s cache.Stats) uint64 { return s.StoreHits }),
		counter("store_errors_total", "Operations of the shared store that failed.", func(s cache.Stats) uint64 { return s.StoreErrors }),
		counter("store_losses_total", "Times that all was dropped, as invalidations may have been missed.", func(s cache.Stats) uint64 { return s.StoreLosses }),
		{refreshes, prometheus.CounterValue, func(s cache.Stats) float64 { return float64(s.Refreshed) }, []string{"ok"}},
		{refreshes, prometheus.CounterValue, func(s cache.Stats) float64 { return float64(s.RefreshesFailed) }, []string{"failed"}},
	}
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("meshlite_cache_"+name, help, append([]string{"cache"}, labels...), nil)
}

func gauge(name, help string, of func(cache.Stats) float64) series {
	return series{desc: desc(name, help), kind: prometheus.GaugeValue, of: of}
}

func counter(name, help string, of func(cache.Stats) uint64) series {
	return series{desc: desc(name, help), kind: prometheus.CounterValue, of: func(s cache.Stats) float64 { return float64(of(s)) }}
}

// Describe implements [prometheus.Collector].
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, s := range all {
		to <- s.desc
	}
}

// Collect implements [prometheus.Collector]. Of several names that are equal in valid
// UTF-8 it exports one: two series of one name would fail the scrape.
func (c collector) Collect(to chan<- prometheus.Metric) {
	exported := map[string]bool{}
	for name, stats := range c.stats() {
		name = strings.ToValidUTF8(name, "?")
		if exported[name] {
			continue
		}
		exported[name] = true
		for _, s := range all {
			to <- prometheus.MustNewConstMetric(s.desc, s.kind, s.of(stats), append([]string{name}, s.more...)...)
		}
	}
}
