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

// shown is what the newest view of a channel has made of an endpoint.
type shown struct {
	zone   zone
	weight uint32  // as listed
	part   float64 // of all weight in rotation
	warm   float64 // how far its slow start is
	state  State
}

// rank orders states: an endpoint is told as the channel sees it that makes most of it.
func (s State) rank() int {
	return slices.Index([]State{Unconnected, Ejected, OtherZone, SlowStarted, InRotation}, s)
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
	Refusals uint64  `json:"refusals"`   // attempts that it has refused, saying when to come again
	Share    float64 `json:"share"`      // of all picks
	Latency  float64 `json:"latency_ms"` // to the first response, rising at once and falling slowly; 0 is unknown
	Failing  float64 `json:"failing"`    // part of the latest calls that it has not answered
	Refusing float64 `json:"refusing"`   // part of the latest calls that it has not answered with OK and others would have
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
	s := TableStats{Ejections: maps.Clone(t.ejections), Endpoints: []EndpointStats{}}
	best := map[*Endpoint]shown{}
	for _, u := range t.channels {
		s.Panic = s.Panic || u.panicking
		for _, m := range u.members {
			if known, ok := best[m.Endpoint]; !ok || m.shown.state.rank() > known.state.rank() {
				best[m.Endpoint] = m.shown
			}
		}
	}
	var picks uint64
	for e, shown := range best {
		s.Endpoints = append(s.Endpoints, e.stats(shown, t.now()))
		picks += e.Picks()
	}
	for i := range s.Endpoints {
		s.Endpoints[i].Share = float64(s.Endpoints[i].Picks) / float64(max(picks, 1))
	}
	slices.SortFunc(s.Endpoints, func(a, b EndpointStats) int { return cmp.Compare(a.Address, b.Address) })
	return s
}

func (e *Endpoint) stats(shown shown, now time.Duration) EndpointStats {
	latency, _ := e.latency.read(now)
	s := EndpointStats{
		ID: e.ID, Address: e.Address, Region: shown.zone.region, Zone: shown.zone.name,
		Weight: shown.weight, Part: shown.part, InFlight: e.InFlight(), Picks: e.Picks(), Refusals: e.Refusals.Count(),
		Latency: latency * 1000, Failing: e.failing.read(now), Refusing: e.standing.excess, Warm: shown.warm, State: shown.state,
	}
	if e.ejection.out && (s.State == Ejected || s.State == Unconnected) {
		s.Reason = e.ejection.reason
		s.Probe = max(e.ejection.until-now, 0).Seconds()
	}
	return s
}

// show notes what the view is. The caller holds Table.mu.
func (u *use) show(v View, s *Settings, now time.Duration) {
	for _, m := range u.members {
		m.shown.state, m.shown.part, m.shown.warm = Unconnected, 0, 1
	}
	for _, r := range v.elsewhere {
		r.member.shown.state = OtherZone
	}
	var sum float64
	for _, r := range v.inRotation() {
		sum += float64(r.Weight)
	}
	for _, r := range v.inRotation() {
		since := now - r.began
		shown := &r.member.shown
		shown.state, shown.part = InRotation, float64(r.Weight)/sum
		if r.Endpoint.ejection.out && !s.Ejection.Disabled {
			shown.state = Ejected // and used, in a panic
		}
		if window := time.Duration(s.SlowStart.Window); r.slow && since < window && shown.state == InRotation {
			shown.state, shown.warm = SlowStarted, float64(since)/float64(window)
		}
	}
	for _, r := range v.ejected {
		r.member.shown.state = Ejected
	}
}
