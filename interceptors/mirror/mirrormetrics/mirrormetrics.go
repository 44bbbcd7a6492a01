// Package mirrormetrics exports to Prometheus what became of the copies of calls: how they ended,
// which were dropped, and where their answers differ.
//
// The numbers are read when they are collected; no call counts anything for it:
//
//	mirrored, err := mirror.New(dial)
//	registry.MustRegister(mirrormetrics.New(mirrored.Stats))
//
// A meshlite.Runtime does so by itself, for all its channels together. Copies are in no other
// figure of calls of the client.
package mirrormetrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/interceptors/mirror"
	"github.com/meshlite-go/meshlite/internal/series"
)

// collector is a [prometheus.Collector].
type collector struct {
	stats func() []mirror.Stats

	mu     sync.Mutex
	counts series.Counters[count, count]
}

// count is a counter of what channels count together; by is the value of its last label.
type count struct {
	desc                        *prometheus.Desc
	service, method, target, by string
}

// New makes a collector of what stats returns, which must be safe for concurrent use and may be
// nil. Counters do not fall when a channel is gone.
func New(stats func() []mirror.Stats) prometheus.Collector {
	if stats == nil {
		stats = func() []mirror.Stats { return nil }
	}
	return &collector{stats: stats}
}

var (
	labels = []string{"grpc_service", "grpc_method", "target"}

	copies = prometheus.NewDesc("meshlite_mirror_copies_total",
		"Copies of calls that have ended, by their code.", append(labels[:3:3], "grpc_code"), nil)
	dropped = prometheus.NewDesc("meshlite_mirror_dropped_total",
		"Calls that were to be copied and were not, by the reason.", append(labels[:3:3], "reason"), nil)
	answers = prometheus.NewDesc("meshlite_mirror_answers_total",
		"Answers to copies that were compared with those of callers.", append(labels[:3:3], "result"), nil)
	differences = prometheus.NewDesc("meshlite_mirror_differences_total",
		"Answers to copies that differ, by the path of a field in which they do.", append(labels[:3:3], "field"), nil)
	inFlight = prometheus.NewDesc("meshlite_mirror_in_flight",
		"Copies of calls that wait for their answers.", labels, nil)
)

// Describe implements [prometheus.Collector].
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{copies, dropped, answers, differences, inFlight} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(to chan<- prometheus.Metric) {
	counted, running := c.look()
	for of, n := range counted {
		series.Count(to, of.desc, n, of.service, of.method, of.target, of.by)
	}
	for of, n := range running {
		series.Gauge(to, of.desc, float64(n), of.service, of.method, of.target)
	}
}

// look reads the channels. Two looks at once would count what has come since twice.
func (c *collector) look() (counted map[count]uint64, running map[count]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	counted, running = map[count]uint64{}, map[count]int64{}
	for _, s := range c.stats() {
		of := count{target: series.Text(s.Target)}
		of.service, of.method = series.Method(s.Method)
		add := func(desc *prometheus.Desc, by string, n uint64) {
			of.desc, of.by = desc, series.Text(by)
			counted[of] += n
		}
		for code, n := range s.Codes {
			add(copies, code, n)
		}
		for reason, n := range s.Dropped {
			add(dropped, reason, n)
		}
		if s.Same+s.Different > 0 {
			add(answers, "same", s.Same)
			add(answers, "different", s.Different)
		}
		for _, d := range s.Differences {
			add(differences, d.Path, d.Count)
		}
		of.desc, of.by = inFlight, ""
		running[of] += s.InFlight
	}
	return c.counts.Grow(counted, func(of count) count { return of }), running
}
