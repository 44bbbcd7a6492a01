// Package series is what collectors of Prometheus have in common that read statistics: values and
// labels of series, counters that never fall though their sources come and go, and a bound for
// series by names of others.
package series

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Gauge sends the value of a gauge.
func Gauge(to chan<- prometheus.Metric, d *prometheus.Desc, value float64, labels ...string) {
	to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

// Count sends the value of a counter.
func Count(to chan<- prometheus.Metric, d *prometheus.Desc, value uint64, labels ...string) {
	to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
}

// Float is 1 for true.
func Float(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Text is s as Prometheus accepts it for a label: invalid UTF-8 would fail the scrape.
func Text(s string) string { return strings.ToValidUTF8(s, "?") }

// Method cuts "/service/method" into texts for labels; a name without a slash is both, as in
// package interceptors/metrics.
func Method(fullMethod string) (service, method string) {
	text := Text(strings.TrimPrefix(fullMethod, "/"))
	if i := strings.LastIndexByte(text, '/'); i >= 0 {
		return text[:i], text[i+1:]
	}
	return text, text
}

// Shares bounds the sizes of services to most in total. The small ones keep all of theirs, the
// large ones share what is left. The same sizes have the same shares.
func Shares(most int, sizes map[string]int) map[string]int {
	names := slices.SortedFunc(maps.Keys(sizes), func(a, b string) int {
		return cmp.Or(cmp.Compare(sizes[a], sizes[b]), cmp.Compare(a, b))
	})
	shares := make(map[string]int, len(names))
	for i, name := range names {
		shares[name] = min(sizes[name], most/(len(names)-i))
		most -= shares[name]
	}
	return shares
}
