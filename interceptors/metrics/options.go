package metrics

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Option changes what [New] makes.
type Option func(*config)

type config struct {
	registerer prometheus.Registerer
	buckets    []float64
	labels     []label
}

// label is one that the user adds to every series of calls.
type label struct {
	name  string
	value func(*interceptors.CallMeta) string
}

// of is the value for a method. Metrics stand outside of recovery, so a panic
// here would end the process.
func (l label) of(meta *interceptors.CallMeta) (value string) {
	defer func() {
		if recover() != nil {
			value = "panic"
		}
	}()
	return strings.ToValidUTF8(l.value(meta), "")
}

// WithRegisterer sets where the collectors are registered. Default:
// [prometheus.DefaultRegisterer]. Several Metrics may share one: they then share
// its collectors, and the buckets of whichever came first.
func WithRegisterer(registerer prometheus.Registerer) Option {
	return func(c *config) { c.registerer = registerer }
}

// WithBuckets sets the upper bounds of the latency histograms, in seconds, in
// increasing order. Default: 10 microseconds to 10 seconds in steps of about 2.
func WithBuckets(seconds ...float64) Option {
	return func(c *config) { c.buckets = slices.Clone(seconds) }
}

// WithLabel adds a label to the series of calls. Its value is asked for once per
// method, on the first call of it, so that the number of series stays bounded;
// it sees the contract of the method and an empty policy. If it panics, the value
// is "panic".
func WithLabel(name string, value func(*interceptors.CallMeta) string) Option {
	return func(c *config) { c.labels = append(c.labels, label{name, value}) }
}

func newConfig(opts []Option) *config {
	c := &config{
		registerer: prometheus.DefaultRegisterer,
		buckets:    []float64{1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	}
	for _, opt := range opts {
		opt(c)
	}
	return c
}

// check refuses what client_golang would refuse with a panic in the first call.
func (c *config) check() error {
	if c.registerer == nil {
		return errors.New("metrics: WithRegisterer(nil): give a prometheus.Registerer, such as prometheus.NewRegistry()")
	}
	if len(c.buckets) == 0 {
		return errors.New("metrics: WithBuckets() has no bucket: give at least one upper bound in seconds")
	}
	for i, bound := range c.buckets {
		if math.IsNaN(bound) || i > 0 && bound <= c.buckets[i-1] {
			return fmt.Errorf("metrics: WithBuckets: %v at position %d is not above the one before it: sort the bounds and drop doubles", bound, i)
		}
	}
	for _, l := range c.labels {
		if l.name == "le" {
			return errors.New(`metrics: WithLabel("le"): histograms keep their bounds there: choose another name`)
		}
		if l.value == nil {
			return fmt.Errorf("metrics: WithLabel(%q, nil): give the function that tells its value", l.name)
		}
	}
	return nil
}

func (c *config) labelNames(own ...string) []string {
	for _, l := range c.labels {
		own = append(own, l.name)
	}
	return own
}
