package metrics

import (
	"context"
	"sync"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// maxCallers caps the callers that are counted by name; the rest is "other".
const maxCallers = 100

// callers count the calls of a server by what the caller's verified certificate proves. Calls
// of others are not counted: whatever they say of themselves is no identity.
type callers struct {
	vec      *prometheus.CounterVec
	verified *caller.Callers // which remember the identities of certificates
	known    rpc.Table[string, *callerSeries]
	others   func() *callerSeries // beyond the cap
}

// callerSeries are the calls of one caller by class.
type callerSeries [classes]prometheus.Counter

func newCallers(r *registration) *callers {
	const name = "meshlite_caller_requests_total"
	verified, err := caller.New()
	if err != nil {
		panic(err) // it has no options
	}
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: name, Help: "Calls ended at servers, of verified callers alone, by the service that calls.",
	}, []string{"caller", "code_class"})
	c := &callers{vec: register(r, name, vec), verified: verified, known: rpc.Table[string, *callerSeries]{Max: maxCallers}}
	c.others = sync.OnceValue(func() *callerSeries { return c.series(other) })
	return c
}

// count allocates nothing after the first call of a caller.
func (c *callers) count(ctx context.Context, class class) {
	identity, _ := c.verified.Incoming(ctx) // without options it has no error
	if identity == "" {
		return
	}
	name := callerName(identity)
	series, ok := c.known.Get(name)
	if !ok {
		series = c.find(name)
	}
	series[class].Inc()
}

// callerName is the service of Consul's that the identity is of, or else all of the identity.
func callerName(identity string) string {
	if _, service, ok := caller.ServiceOf(identity); ok {
		return service
	}
	if len(identity) > maxName || !utf8.ValidString(identity) {
		return other
	}
	return identity
}

func (c *callers) find(name string) *callerSeries {
	if name == other {
		return c.others()
	}
	series, ok := c.known.Of(name, func() *callerSeries { return c.series(name) })
	if !ok {
		return c.others()
	}
	return series
}

func (c *callers) series(name string) *callerSeries {
	made := &callerSeries{}
	for class := range classes {
		made[class] = c.vec.WithLabelValues(name, class.String())
	}
	return made
}
