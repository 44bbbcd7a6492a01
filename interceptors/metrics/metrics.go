package metrics

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// Metrics is the concern. It is safe for concurrent use, serves any number of
// channels and servers, and owns nothing that needs closing.
type Metrics struct {
	client *calls
	server *calls
	trace  traceOf

	attempts    *events
	cache       *events
	limits      *events
	concurrency *events
	panics      *events
	unbounded   *events
	timeouts    *events
}

// New registers the collectors, or shares those that another Metrics has
// registered in the same place. A collector of the same name with other labels,
// a label without a function, and buckets out of order are errors.
func New(opts ...Option) (*Metrics, error) {
	c := newConfig(opts)
	if err := c.check(); err != nil {
		return nil, err
	}
	r := &registration{registerer: c.registerer}
	seen := &names{rpc.Table[string, struct{}]{Max: maxUnlinked}}
	m := &Metrics{
		client: newCalls(r, c, interceptors.Client, seen),
		server: newCalls(r, c, interceptors.Server, seen),
		attempts: newEvents(r, seen, "grpc_client_attempts_total",
			"Attempts that ended, of methods that may be tried again. A call has one or more.", "overspent", "grpc_code", "result"),
		cache: newEvents(r, seen, "meshlite_cache_requests_total",
			"Calls that asked the cache, by what it had.", "", "result"),
		limits: newEvents(r, seen, "meshlite_ratelimit_requests_total",
			"Calls that a rate limit judged, by limit and verdict.", "refused", "limit", "result"),
		concurrency: newEvents(r, seen, "meshlite_concurrency_requests_total",
			"Calls of methods with a concurrency limit, by what became of them.", "refused", "result"),
		panics: newEvents(r, seen, "meshlite_panics_total",
			"Panics turned into INTERNAL.", ""),
		timeouts: newEvents(r, seen, "meshlite_timeouts_total",
			"Calls that failed when the timeout of their policy or route was over.", "", "timeout"),
		unbounded: newEvents(r, seen, "grpc_client_without_deadline_total",
			"Unary calls begun without a deadline, of their context or their policy.", ""),
	}
	if r.err != nil {
		r.undo()
		return nil, r.err
	}
	return m, nil
}

// Serves makes the counters of all methods of a server, from 0 on: what grpc.Server's
// GetServiceInfo returns. rate() and increase() miss what a series begins with. That is
// some 20 series for each method; histograms begin with the first call.
func (m *Metrics) Serves(services map[string]grpc.ServiceInfo) {
	for service, info := range services {
		for _, method := range info.Methods {
			kind := unary
			if method.IsClientStream || method.IsServerStream {
				kind = kindOf(method.IsClientStream, method.IsServerStream)
			}
			full := "/" + service + "/" + method.Name
			m.server.method(kind, full, true)
			m.panics.find(&interceptors.CallMeta{Side: interceptors.Server, FullMethod: full}, "", "")
		}
	}
}

// Stage is [interceptors.Metrics].
func (m *Metrics) Stage() interceptors.Stage { return interceptors.Metrics }

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
			return fmt.Errorf("metrics: WithLabel(%q, nil): give the function that returns its value", l.name)
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
