// Package identitymetrics exports to Prometheus how long the certificates of a process are
// good, which connections were refused and why, and who still calls in plaintext.
//
// The numbers are read when they are collected; no connection counts anything for it:
//
//	mtls, err := identity.New(source)
//	registry.MustRegister(identitymetrics.New(func() []identity.Stats { return []identity.Stats{mtls.Stats()} }))
//
// A meshlite.Runtime does so by itself, for those that are given to its channels and servers.
package identitymetrics

import (
	"cmp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/identity"
)

// collector is a [prometheus.Collector].
type collector struct{ stats func() []identity.Stats }

// New makes a collector of what stats returns, which must be safe for concurrent use and may
// be nil. Those of one service are added up.
func New(stats func() []identity.Stats) prometheus.Collector {
	if stats == nil {
		stats = func() []identity.Stats { return nil }
	}
	return collector{stats}
}

var (
	notAfter = prometheus.NewDesc("meshlite_identity_not_after_timestamp_seconds",
		"When the certificate of this process ends. 0 is no certificate.", []string{"service"}, nil)
	notBefore = prometheus.NewDesc("meshlite_identity_not_before_timestamp_seconds",
		"When the certificate of this process began to be valid. 0 is no certificate.", []string{"service"}, nil)
	renewals = prometheus.NewDesc("meshlite_identity_renewals_total",
		"Certificates or roots that were received, and attempts that failed.", []string{"service", "result"}, nil)
	handshakes = prometheus.NewDesc("meshlite_identity_handshakes_total",
		"Handshakes of mutual TLS that succeeded.", []string{"service", "side"}, nil)
	refusals = prometheus.NewDesc("meshlite_identity_refusals_total",
		"Connections that one end has refused, by reason.", []string{"service", "reason"}, nil)
	connections = prometheus.NewDesc("meshlite_identity_connections",
		"Connections of mutual TLS that are open.", []string{"service"}, nil)
	ended = prometheus.NewDesc("meshlite_identity_ended_connections_total",
		"Connections that were replaced before a certificate ended, or closed at its end.", []string{"service", "how"}, nil)
	plaintextOpen = prometheus.NewDesc("meshlite_identity_plaintext_connections",
		"Plaintext connections that are open at a permissive server.", []string{"service"}, nil)
	plaintextTotal = prometheus.NewDesc("meshlite_identity_plaintext_connections_total",
		"Plaintext connections that a permissive server has accepted.", []string{"service"}, nil)
)

// Describe implements [prometheus.Collector].
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{notAfter, notBefore, renewals, handshakes, refusals, connections, ended, plaintextOpen, plaintextTotal} {
		to <- desc
	}
}

// Collect implements [prometheus.Collector].
func (c collector) Collect(to chan<- prometheus.Metric) {
	for service, s := range merge(c.stats()) {
		gauge := func(desc *prometheus.Desc, value float64) {
			to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, service)
		}
		count := func(desc *prometheus.Desc, value uint64, label ...string) {
			to <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), append([]string{service}, label...)...)
		}
		gauge(notAfter, seconds(s.ValidUntil))
		gauge(notBefore, seconds(s.ValidFrom))
		count(renewals, s.Source.Published, "ok")
		count(renewals, s.Source.Failed, "failed")
		count(handshakes, s.Clients, "client")
		count(handshakes, s.Servers, "server")
		for _, reason := range identity.Reasons() {
			count(refusals, s.Refused[reason], string(reason))
		}
		gauge(connections, float64(s.Connections))
		count(ended, s.Replaced, "replaced")
		count(ended, s.Cut, "closed")
		gauge(plaintextOpen, float64(s.Plaintext.Open))
		count(plaintextTotal, s.Plaintext.Connections)
	}
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// merge sums those of one service: two series of one name would fail the scrape. Of
// certificates the one that ends first counts, and none ends before all.
func merge(all []identity.Stats) map[string]identity.Stats {
	merged := map[string]identity.Stats{}
	for _, s := range all {
		name := strings.ToValidUTF8(cmp.Or(s.Service, "unknown"), "?")
		if sum, ok := merged[name]; ok {
			s = add(sum, s)
		}
		merged[name] = s
	}
	return merged
}

func add(a, b identity.Stats) identity.Stats {
	sum := a
	if b.ValidUntil.Before(a.ValidUntil) {
		sum.ValidFrom, sum.ValidUntil = b.ValidFrom, b.ValidUntil
	}
	sum.Source.Published += b.Source.Published
	sum.Source.Failed += b.Source.Failed
	sum.Clients += b.Clients
	sum.Servers += b.Servers
	sum.Refused = map[identity.Reason]uint64{}
	for _, reason := range identity.Reasons() {
		sum.Refused[reason] = a.Refused[reason] + b.Refused[reason]
	}
	sum.Connections += b.Connections
	sum.Replaced += b.Replaced
	sum.Cut += b.Cut
	sum.Plaintext.Open += b.Plaintext.Open
	sum.Plaintext.Connections += b.Plaintext.Connections
	return sum
}
