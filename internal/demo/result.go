package demo

import (
	"encoding/json"
	"io"
	"math"
	"time"
)

// Result is what the demo has measured, as `meshlite demo -o json` prints it.
// Calls, Failed, the latencies and the phases are of ordinary customers; Refused
// are the calls of the abusive one that a limit refused.
type Result struct {
	Registry string    `json:"registry"` // "consul 1.22.7" or "embedded"
	Calls    uint64    `json:"calls"`
	Failed   uint64    `json:"failed"`
	Refused  uint64    `json:"refused"`
	Gateway  uint64    `json:"gateway_calls"` // of Calls, those that came through the gateway
	P50      float64   `json:"p50_ms"`
	P99      float64   `json:"p99_ms"`
	Cache    Cache     `json:"cache"`
	Services []Service `json:"services"`
	Joined   float64   `json:"joined_ms"` // registration to first call of the slowest new replica
	Abuser   Abuser    `json:"abuser"`
	Phases   []Phase   `json:"phases"`

	seconds float64 // from the first call to the last
	before  before
	cards   []card
	caches  [phases]Cache
	late    uint64
	reasons map[string]uint64
	start   time.Time // of the load
	traffic []sample
	trouble string // what the client library has logged
}

const maxTrouble = 10 // lines

// Cache is what the caches of the services did for calls.
type Cache struct {
	Hits   uint64 `json:"hits"`
	Misses uint64 `json:"misses"`
}

// Service is a service and all instances of it that there were.
type Service struct {
	Name      string     `json:"name"`
	Instances []Instance `json:"instances"`
}

// Instance is one instance and the calls that it says it has handled.
type Instance struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	Calls   uint64 `json:"calls"`
}

// Abuser is what the abusive customer got and what the contract allows a customer.
type Abuser struct {
	Admitted uint64 `json:"admitted"`
	Allowed  uint64 `json:"allowed"`
}

// Phase is a third of the story.
type Phase struct {
	Name   string  `json:"name"`
	Calls  uint64  `json:"calls"`
	Failed uint64  `json:"failed"`
	P99    float64 `json:"p99_ms"`
}

// before is the load before it doubled.
type before struct {
	calls   uint64
	orders  uint64
	seconds float64
}

// WriteJSON writes the result as one object.
func (r *Result) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// ratio is the share of hits.
func (c Cache) ratio() float64 {
	if c.Hits+c.Misses == 0 {
		return 0
	}
	return float64(c.Hits) / float64(c.Hits+c.Misses)
}

func (c Cache) since(before Cache) Cache {
	return Cache{c.Hits - before.Hits, c.Misses - before.Misses}
}

// newResult collects the figures of the parts of the demo.
func newResult(registry string, s *story, l *load, allowed limit) *Result {
	now := l.tally.read()
	total := now.total()
	r := &Result{
		Registry: registry,
		Calls:    total.done, Failed: total.failed, Refused: now.abuse.refused, Gateway: total.door,
		P50: inMillis(total.latency.quantile(0.5)), P99: inMillis(total.latency.quantile(0.99)),
		Cache:  s.caches[phases],
		Joined: inMillis(s.joined),
		Abuser: Abuser{now.abuse.admitted, allowed.allows(now.abuse.last.Sub(now.abuse.first))},

		seconds: time.Since(l.start).Seconds(),
		before:  before{now.phases[steady].sent, now.phases[steady].orders, (s.length / 3).Seconds()},
		cards:   s.fleet.cards(),
		late:    total.late,
		reasons: l.tally.reasons,
		start:   l.start,
		traffic: s.fleet.samples(),
	}
	for p := range phases {
		c := &now.phases[p]
		r.Phases = append(r.Phases, Phase{p.String(), c.done, c.failed, inMillis(c.latency.quantile(0.99))})
		r.caches[p] = s.caches[p+1].since(s.caches[p])
	}
	for _, c := range r.cards {
		if n := len(r.Services); n == 0 || r.Services[n-1].Name != c.service {
			r.Services = append(r.Services, Service{Name: c.service})
		}
		last := &r.Services[len(r.Services)-1]
		last.Instances = append(last.Instances, Instance{c.id, c.address, c.calls})
	}
	return r
}

// inMillis is d in milliseconds, to the hundredth.
func inMillis(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Millisecond)*100) / 100
}
