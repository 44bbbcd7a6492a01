package metrics

import (
	"google.golang.org/grpc"

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
			"Attempts that ended, of methods that may be tried again. A call has one or more.", "overspent", "grpc_code", "result"),
		cache: newEvents(r, seen, "meshlite_cache_requests_total",
			"Calls that asked the cache, by what it had.", "", "result"),
		limits: newEvents(r, seen, "meshlite_ratelimit_requests_total",
			"Calls that a rate limit judged, by limit and verdict.", "refused", "limit", "result"),
		concurrency: newEvents(r, seen, "meshlite_concurrency_requests_total",
			"Calls of methods with a concurrency limit, by what became of them.", "refused", "result"),
		panics: newEvents(r, seen, "meshlite_panics_total",
			"Panics turned into INTERNAL.", ""),
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

// Place is [interceptors.Metrics].
func (m *Metrics) Place() interceptors.Place { return interceptors.Metrics }
