// Package seriestest tests collectors of Prometheus that read statistics which change meanwhile.
package seriestest

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats are what a collector reads, and a test changes. They are safe for concurrent use.
type Stats[T any] struct {
	mu  sync.Mutex
	all []T
}

// Of returns stats that are all.
func Of[T any](all ...T) *Stats[T] { return &Stats[T]{all: all} }

// Set replaces them.
func (s *Stats[T]) Set(all ...T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = all
}

// Read returns them. Do not change them.
func (s *Stats[T]) Read() []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}

// Register registers c alone, where what is collected and not described fails as well.
func Register(t testing.TB, c prometheus.Collector) *prometheus.Registry {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	return registry
}

// Gather reads the metric called name: the values by those of the labels, in the order of their
// names.
func Gather(t testing.TB, g prometheus.Gatherer, name string) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			values[strings.Join(labels, " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

// RefusesASecond fails unless a registry refuses a second collector of newCollector. One that
// describes nothing could be registered twice, and every scrape after that would fail.
func RefusesASecond(t testing.TB, newCollector func() prometheus.Collector) {
	t.Helper()
	registry := Register(t, newCollector())
	if families, err := registry.Gather(); err != nil || len(families) == 0 {
		t.Errorf("gathered %d families, %v", len(families), err)
	}
	if err := registry.Register(newCollector()); !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		t.Errorf("a second one of the same metrics: %v, want it refused", err)
	}
}

// Overlap scrapes g four times at once, many times, while change runs.
func Overlap(t testing.TB, g prometheus.Gatherer, change func()) {
	t.Helper()
	var scrapes sync.WaitGroup
	for range 4 {
		scrapes.Go(func() {
			for range 50 {
				if _, err := g.Gather(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	change()
	scrapes.Wait()
}
