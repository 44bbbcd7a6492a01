package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Metrics is the concern. It is safe for concurrent use, serves any number of
// channels and servers, and owns nothing that needs closing.
type Metrics struct {
	client *calls
	server *calls

	attempts    *events
	cache       *events
	limits      *events
	concurrency *events
	panics      *events
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
	seen := &names{}
	m := &Metrics{
		client: newCalls(r, c, interceptors.Client, seen),
		server: newCalls(r, c, interceptors.Server, seen),
		attempts: newEvents(r, seen, "grpc_client_attempts_total",
			"Attempts that ended, of methods that may be tried again. A call has one or more.", "grpc_code"),
		cache: newEvents(r, seen, "meshlite_cache_requests_total",
			"Calls that asked the cache, by what it had.", "result"),
		limits: newEvents(r, seen, "meshlite_ratelimit_requests_total",
			"Calls that a rate limit judged, by limit and verdict.", "limit", "result"),
		concurrency: newEvents(r, seen, "meshlite_concurrency_requests_total",
			"Calls of methods with a concurrency limit, by what became of them.", "result"),
		panics: newEvents(r, seen, "meshlite_panics_total",
			"Panics turned into INTERNAL."),
	}
	if r.err != nil {
		r.undo()
		return nil, r.err
	}
	return m, nil
}

// Place is [interceptors.Metrics].
func (m *Metrics) Place() interceptors.Place { return interceptors.Metrics }

// newCalls makes the collectors of one side.
func newCalls(r *registration, c *config, side interceptors.Side, seen *names) *calls {
	prefix := "grpc_" + side.String() + "_"
	labels := c.labelNames("grpc_type", "grpc_service", "grpc_method")
	counter := func(name, help string, labels []string) *prometheus.CounterVec {
		return register(r, prefix+name, prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels))
	}
	return &calls{
		side: side, labels: c.labels, names: seen,
		started:  counter("started_total", "Calls begun.", labels),
		handled:  counter("handled_total", "Calls ended, by code.", c.labelNames("grpc_type", "grpc_service", "grpc_method", "grpc_code")),
		received: counter("msg_received_total", "Messages received.", labels),
		sent:     counter("msg_sent_total", "Messages sent.", labels),
		inFlight: register(r, prefix+"in_flight", prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + "in_flight", Help: "Calls begun and not ended."}, labels)),
		seconds: register(r, prefix+"handling_seconds", prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "handling_seconds", Help: "Time from the begin of a call to its end.", Buckets: c.buckets}, labels)),
	}
}
