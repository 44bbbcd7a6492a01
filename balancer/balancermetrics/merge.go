package balancermetrics

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/internal/series"
	"github.com/meshlite-go/meshlite/resolver"
)

// maxAddresses bounds the exported addresses of all services together. Those of a service
// beyond its share are exported as one, other.
const maxAddresses = 1000

const other = "other"

// service merges all tables of one service.
type service struct {
	name      string
	endpoints map[string]*endpoint // by address
	states    [len(states)]int
	panicking bool
}

// endpoint holds the series of an address, or of several merged.
type endpoint struct {
	region, zone           string
	inFlight               int64
	latency                float64 // seconds
	weight, part           float64
	failing, warm, ejected float64
	state                  int // in states
}

// states are those of an endpoint, the worst last.
var states = [...]balancer.State{balancer.InRotation, balancer.SlowStarted, balancer.OtherZone, balancer.Ejected, balancer.Unconnected}

// merge puts the tables of each service together.
func merge(tables []resolver.Picks) map[string]*service {
	services := map[string]*service{}
	for _, t := range tables {
		name := series.Text(t.Service)
		s := services[name]
		if s == nil {
			s = &service{name: name, endpoints: map[string]*endpoint{}}
			services[name] = s
		}
		s.panicking = s.panicking || t.Panic
		for _, e := range t.Endpoints {
			s.add(series.Text(e.Address), endpointOf(e))
		}
	}
	for _, s := range services {
		for _, e := range s.endpoints {
			s.states[e.state]++
		}
	}
	return services
}

// add merges an endpoint with those of other tables at its address.
func (s *service) add(address string, e *endpoint) {
	old := s.endpoints[address]
	if old == nil {
		s.endpoints[address] = e
		return
	}
	old.region, old.zone = cmp.Or(old.region, e.region), cmp.Or(old.zone, e.zone)
	old.weight, old.ejected = max(old.weight, e.weight), max(old.ejected, e.ejected)
	old.and(e)
}

// and adds what can be added of endpoints and of tables, and keeps the worst of the rest.
func (e *endpoint) and(o *endpoint) {
	e.inFlight += o.inFlight
	e.part += o.part
	e.latency, e.failing, e.warm = max(e.latency, o.latency), max(e.failing, o.failing), min(e.warm, o.warm)
	e.state = max(e.state, o.state)
}

func endpointOf(e balancer.EndpointStats) *endpoint {
	return &endpoint{
		region: series.Text(e.Region), zone: series.Text(e.Zone),
		inFlight: e.InFlight, latency: e.Latency / 1000,
		weight: float64(e.Weight), part: e.Part, failing: e.Failing, warm: e.Warm,
		ejected: series.Float(e.Reason != ""), state: max(slices.Index(states[:], e.State), 0),
	}
}

// limit bounds the exported addresses of the services. It is by address which stay, so that it is
// the same the next time.
func limit(services map[string]*service) {
	sizes := map[string]int{}
	for name, s := range services {
		sizes[name] = len(s.endpoints)
	}
	for name, n := range series.Shares(maxAddresses, sizes) {
		services[name].keep(n)
	}
}

// keep leaves s the first n of its addresses.
func (s *service) keep(n int) {
	if n == len(s.endpoints) {
		return
	}
	rest := &endpoint{warm: 1}
	for _, address := range slices.Sorted(maps.Keys(s.endpoints))[n:] {
		e := s.endpoints[address]
		delete(s.endpoints, address)
		rest.weight += e.weight
		rest.ejected += e.ejected
		rest.and(e)
	}
	s.endpoints[other] = rest
}

// labelOf is the label of an address: itself, or other.
func (s *service) labelOf(address string) string {
	if _, own := s.endpoints[address]; own {
		return address
	}
	return other
}
