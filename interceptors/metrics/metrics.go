package metrics

import (
	"github.com/meshlite-go/meshlite/interceptors"
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
			"Attempts that ended, of methods that may be tried again. A call has one or more.", "grpc_code", "result"),
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
