package consul

import "sync/atomic"

// Stats counts what was asked of one agent since the directory was made.
type Stats struct {
	Agent           string // its address
	Requests        uint64 // sent to the agent, blocking queries among them
	Failures        uint64 // of these: not answered, or answered by an error
	Reregistrations uint64 // what the agent had forgotten or changed, and was told anew
	Watches         int    // open now
	Registrations   int    // kept now

	Services []ServiceStats // that are registered, or are to be, by name
}

type counters struct {
	requests, failures, reregistrations atomic.Uint64
	registrations                       atomic.Int64
	services                            services
}

// Stats tells of the directory's own agent first, then of those that
// [Directory.At] was asked for.
func (d *Directory) Stats() []Stats {
	all := []Stats{d.stats()}
	for _, other := range d.agents.all() {
		all = append(all, other.stats())
	}
	return all
}

func (d *Directory) stats() Stats {
	return Stats{
		Agent:           d.address,
		Requests:        d.counters.requests.Load(),
		Failures:        d.counters.failures.Load(),
		Reregistrations: d.counters.reregistrations.Load(),
		Watches:         d.crowd.size(),
		Registrations:   int(d.counters.registrations.Load()),
		Services:        d.counters.services.stats(),
	}
}
