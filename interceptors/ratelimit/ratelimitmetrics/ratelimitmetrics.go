// Package ratelimitmetrics exports the state of rate limiters to Prometheus: keys, how many
// of them are near a limit, waits, refunds, calls that are held back, and fallbacks of
// limits whose external store is unavailable.
//
// The numbers are read when they are collected; no call counts anything for it:
//
//	limiter, err := ratelimit.New()
//	registry.MustRegister(ratelimitmetrics.New(func() []*ratelimit.Limiter { return []*ratelimit.Limiter{limiter} }))
//
// A meshlite.Runtime does so by itself, for all its channels and servers together. The
// results of calls are counted by package interceptors/metrics.
package ratelimitmetrics

import (
	"sync"
	"weak"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/series"
)

// collector is a [prometheus.Collector].
type collector struct {
	limiters func() []*ratelimit.Limiter

	mu    sync.Mutex
	seen  map[weak.Pointer[ratelimit.Limiter]]counts // at the last look
	total counts
}

// New makes a collector of the sum of all limiters returned by limiters, which must be safe for
// concurrent use and may be nil. Counters do not fall when a limiter is gone.
func New(limiters func() []*ratelimit.Limiter) prometheus.Collector {
	if limiters == nil {
		limiters = func() []*ratelimit.Limiter { return nil }
	}
	return &collector{limiters: limiters}
}

var (
	keys    = desc("keys", "Keys whose counts are kept, idle ones included.")
	hotKeys = desc("hot_keys",
		"Keys that have used three quarters of a limit or more. Ten at most of each channel and server.",
		"grpc_service", "grpc_method", "limit")
	fallbacks = desc("fallbacks_total", "Calls at limits whose external store was unavailable, by what on_store_failure did instead.", "to")

	totals = [...]counter{
		total("forgotten_keys_total", "Keys that were evicted before their bucket was full again, as there was no room.",
			func(s ratelimit.Stats) uint64 { return s.Forgotten }),
		total("waited_total", "Calls that were admitted after a wait.",
			func(s ratelimit.Stats) uint64 { return s.Waited }),
		total("refunded_total", "Charges that were refunded after the call.",
			func(s ratelimit.Stats) uint64 { return s.Refunded }),
		total("held_back_total", "Calls that were delayed or failed by the client, as all instances of a service have refused such calls.",
			func(s ratelimit.Stats) uint64 { return s.HeldBack }),
		total("remembered_refusals_total", "Refusals without asking the external store, as it had refused the key until a later time.",
			func(s ratelimit.Stats) uint64 { return s.Remembered }),
		total("store_errors_total", "Operations of the external store that failed.",
			func(s ratelimit.Stats) uint64 { return s.StoreErrors }),
		{fallbacks, func(s ratelimit.Stats) uint64 { return s.FallbackOpen }, []string{"open"}},
		{fallbacks, func(s ratelimit.Stats) uint64 { return s.FallbackClosed }, []string{"closed"}},
		{fallbacks, func(s ratelimit.Stats) uint64 { return s.FallbackPerReplica }, []string{"per_replica"}},
	}
)

// counter is a total, and how it is read.
type counter struct {
	desc   *prometheus.Desc
	of     func(ratelimit.Stats) uint64
	labels []string // values
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("meshlite_ratelimit_"+name, help, labels, nil)
}

func total(name, help string, of func(ratelimit.Stats) uint64) counter {
	return counter{desc: desc(name, help), of: of}
}

// counts are the totals of a limiter, in their order.
type counts [len(totals)]uint64

func countsOf(s ratelimit.Stats) (all counts) {
	for i := range totals {
		all[i] = totals[i].of(s)
	}
	return all
}

type hotLabels struct{ service, method, limit string }

// Describe implements [prometheus.Collector].
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	to <- keys
	to <- hotKeys
	for _, one := range totals {
		to <- one.desc
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(to chan<- prometheus.Metric) {
	kept, hot, sums := c.look()
	series.Gauge(to, keys, float64(kept))
	for l, n := range hot {
		series.Gauge(to, hotKeys, float64(n), l.service, l.method, l.limit)
	}
	for i, one := range totals {
		series.Count(to, one.desc, sums[i], one.labels...)
	}
}

// look reads the limiters, one look at a time: two would count the same increase twice.
func (c *collector) look() (kept int, hot map[hotLabels]int, sums counts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	hot, seen := map[hotLabels]int{}, map[weak.Pointer[ratelimit.Limiter]]counts{}
	for _, l := range c.limiters() {
		stats, at := l.Stats(), weak.Make(l)
		if _, twice := seen[at]; twice {
			continue
		}
		kept += stats.Keys
		for _, n := range stats.HotKeys {
			hot[labelsOf(n)]++
		}
		now, before := countsOf(stats), c.seen[at]
		for i := range now {
			c.total[i] += now[i] - before[i]
		}
		seen[at] = now
	}
	c.seen = seen
	return kept, hot, c.total
}

func labelsOf(n ratelimit.HotKeyStats) hotLabels {
	l := hotLabels{limit: series.Text(n.Name)}
	l.service, l.method = series.Method(n.Method)
	return l
}
