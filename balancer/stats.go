package balancer

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// State is what a channel does with an endpoint.
type State string

// The states.
const (
	InRotation  State = "in_rotation"
	SlowStarted State = "slow_start" // in rotation, and its weight still grows
	OtherZone   State = "other_zone" // its own zone needs no help
	Ejected     State = "ejected"
	Unconnected State = "no_connection"
)

// shown is what the newest view has made of an endpoint.
type shown struct {
	zone   zone
	weight uint32  // as listed
	part   float64 // of all weight in rotation
	state  State
}

// EndpointStats is what is known of one endpoint.
type EndpointStats struct {
	ID       string  `json:"id"`
	Address  string  `json:"address"`
	Region   string  `json:"region,omitempty"`
	Zone     string  `json:"zone,omitempty"`
	Weight   uint32  `json:"weight"`      // as the directory has it
	Part     float64 `json:"weight_part"` // of all weight in rotation, with slow start, failures and zones
	InFlight int64   `json:"in_flight"`
	Picks    uint64  `json:"picks"`
	Share    float64 `json:"share"`      // of all picks
	Latency  float64 `json:"latency_ms"` // to the first response, rising at once and falling slowly; 0 is unknown
	Failing  float64 `json:"failing"`    // part of the latest calls that it has not answered
	Warm     float64 `json:"slow_start"` // how far its slow start is, from 0 to 1; 1 without one
	State    State   `json:"state"`
	Reason   Reason  `json:"reason,omitempty"`           // why it is ejected
	Probe    float64 `json:"probe_in_seconds,omitempty"` // when the next call finds out whether it is well
}

// TableStats is what is known of the endpoints of one target.
type TableStats struct {
	Panic     bool              `json:"panic"`     // so few can be used that the ejected are, too
	Ejections map[Reason]uint64 `json:"ejections"` // so far
	Endpoints []EndpointStats   `json:"endpoints"` // by address
}

// Stats tells of the endpoints that channels have now.
func (t *Table) Stats() TableStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	s := TableStats{Panic: t.panicking, Ejections: maps.Clone(t.ejections), Endpoints: []EndpointStats{}}
	var picks uint64
	for _, e := range t.endpoints {
		if e.users > 0 {
			s.Endpoints = append(s.Endpoints, e.stats(now))
			picks += e.Picks()
		}
	}
	for i := range s.Endpoints {
		s.Endpoints[i].Share = float64(s.Endpoints[i].Picks) / float64(max(picks, 1))
	}
	slices.SortFunc(s.Endpoints, func(a, b EndpointStats) int { return cmp.Compare(a.Address, b.Address) })
	return s
}

func (e *Endpoint) stats(now time.Duration) EndpointStats {
	latency, _ := e.latency.read(now)
	s := EndpointStats{
		ID: e.ID, Address: e.Address, Region: e.shown.zone.region, Zone: e.shown.zone.name,
		Weight: e.shown.weight, Part: e.shown.part, InFlight: e.InFlight(), Picks: e.Picks(),
		Latency: latency * 1000, Failing: e.failing.read(now), Warm: 1, State: cmp.Or(e.shown.state, Unconnected),
	}
	if e.slow {
		s.Warm = e.warm
	}
	if e.ejection.out {
		s.Reason = e.ejection.reason
		s.Probe = max(e.ejection.until-now, 0).Seconds()
	}
	return s
}

// show notes what the view is. The caller holds t.mu.
func (t *Table) show(v View, members map[string]*member) {
	for _, m := range members {
		m.shown = shown{zone: m.zone(), weight: weightOf(m.listed), state: Unconnected}
	}
	var sum float64
	for _, r := range v.Ready {
		sum += float64(r.Weight)
	}
	for _, r := range v.spare {
		r.shown.state = OtherZone
	}
	for _, r := range v.Ready {
		r.shown.state, r.shown.part = InRotation, float64(r.Weight)/sum
		if r.slow {
			r.shown.state = SlowStarted
		}
	}
	for _, m := range members {
		if m.Endpoint.ejection.out && m.shown.state != Unconnected {
			m.shown.state = Ejected
		}
	}
}
