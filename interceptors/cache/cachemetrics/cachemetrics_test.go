package cachemetrics_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/cache/cachemetrics"
	"github.com/meshlite-go/meshlite/internal/series/seriestest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	kept, err := cache.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer kept.Close()
	registry := prometheus.NewRegistry()
	fmt.Println(registry.Register(cachemetrics.New(func() map[string]cache.Stats {
		return map[string]cache.Stats{"kept": kept.Stats()}
	})))
	// Output: <nil>
}

// Case metrics
func TestEachFigureHasItsSeries(t *testing.T) {
	stats := func() map[string]cache.Stats {
		return map[string]cache.Stats{"runtime": {
			Counts:  cache.Counts{Stored: 1, Refreshed: 2, RefreshesFailed: 3, IgnoredDirectives: 4},
			Evicted: 5, Invalidations: 6, StoreHits: 7, StoreErrors: 8, StoreLosses: 9,
			Entries: 10, Bytes: 11, MaxBytes: 12,
		}}
	}
	values := map[string]string{
		"stored_total": "1", `refreshes_total{result="ok"}`: "2", `refreshes_total{result="failed"}`: "3",
		"ignored_directives_total": "4", "evictions_total": "5", "invalidations_total": "6", "store_hits_total": "7",
		"store_errors_total": "8", "store_losses_total": "9", "entries": "10", "bytes": "11", "max_bytes": "12",
	}
	c := cachemetrics.New(stats)
	text := expose(t, c)
	for name, value := range values {
		name, labels, _ := strings.Cut(name, "{")
		line := "meshlite_cache_" + name + `{cache="runtime"`
		if labels != "" {
			line += "," + strings.TrimSuffix(labels, "}")
		}
		if line += "} " + value + "\n"; !strings.Contains(text, line) {
			t.Errorf("%s is not among\n%s", line, text)
		}
	}
	if n := testutil.CollectAndCount(c); n != len(values) {
		t.Errorf("%d series, want %d", n, len(values))
	}
	if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
		t.Errorf("the linter of Prometheus says %v %v", problems, err)
	}
}

// Targets name caches, and no scrape may fail for one.
func TestNamesThatAreNoTextAreExported(t *testing.T) {
	c := cachemetrics.New(func() map[string]cache.Stats { return map[string]cache.Stats{"\xfe": {}, "\xff": {}} })
	if n, err := testutil.GatherAndCount(registryOf(c), "meshlite_cache_entries"); n != 1 || err != nil {
		t.Errorf("%d series, %v: want one", n, err)
	}
	if n := testutil.CollectAndCount(cachemetrics.New(nil)); n != 0 {
		t.Errorf("%d series of nothing", n)
	}
}

func registryOf(c prometheus.Collector) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	return registry
}

// expose is what Prometheus would read.
func expose(t *testing.T, c prometheus.Collector) string {
	t.Helper()
	families, err := registryOf(c).Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			fmt.Fprintf(&b, "%s{%s} %v\n", f.GetName(), strings.Join(labels, ","), m.GetGauge().GetValue()+m.GetCounter().GetValue())
		}
	}
	return b.String()
}

func TestASecondCollectorIsRefused(t *testing.T) {
	stats := func() map[string]cache.Stats { return map[string]cache.Stats{"own": {}} }
	seriestest.RefusesASecond(t, func() prometheus.Collector { return cachemetrics.New(stats) })
}
