package demo

import "time"

// scene is the story at one moment, for whoever looks on.
type scene struct {
	phase         phase
	since, length time.Duration
	rate          float64       // calls a second of ordinary customers, of late
	p50, p99      time.Duration // of the same
	calls, failed uint64
	refused       uint64
	cache         Cache
	actors        []actor
}

// actor is an instance in a scene.
type actor struct {
	name, service, fate string
	calls               uint64
	part                float64 // of the calls of its service, of late
}

// recent is how far back "of late" goes, a little less than the plain view waits.
const recent = 950 * time.Millisecond

// observer samples the story and keeps enough samples to compute rates.
type observer struct {
	load  *load
	fleet *fleet
	story time.Duration
	past  []moment // oldest first; the first is at least as old as recent, once there is one
}

type moment struct {
	at    time.Time
	total counts
	calls map[string]uint64 // by instance
}

func (o *observer) look() scene {
	read := o.load.tally.read()
	cards := o.fleet.cards()
	now := moment{time.Now(), read.total(), map[string]uint64{}}
	for _, c := range cards {
		now.calls[c.id] = c.calls
	}
	before := o.before(now)
	latency := now.total.latency.since(&before.total.latency)
	since := now.at.Sub(o.load.start)
	return scene{
		phase: phaseAt(since, o.story), since: since, length: o.story,
		rate: float64(now.total.done-before.total.done) / max(now.at.Sub(before.at).Seconds(), 0.001),
		p50:  latency.quantile(0.5), p99: latency.quantile(0.99),
		calls: now.total.done, failed: now.total.failed, refused: read.abuse.refused,
		cache: o.fleet.caches(), actors: actors(cards, before.calls),
	}
}

// before is the moment to compare now with. It keeps now for later.
func (o *observer) before(now moment) moment {
	for len(o.past) > 1 && now.at.Sub(o.past[1].at) >= recent {
		o.past = o.past[1:]
	}
	o.past = append(o.past, now)
	if first := o.past[0]; first.at != now.at {
		return first
	}
	return moment{at: o.load.start}
}

func actors(cards []card, before map[string]uint64) []actor {
	of := map[string]uint64{}
	for _, c := range cards {
		if c.fate == "" {
			of[c.service] += c.calls - before[c.id]
		}
	}
	var list []actor
	for _, c := range cards {
		a := actor{name: c.name, service: c.service, fate: c.fate, calls: c.calls}
		if c.fate == "" {
			a.part = float64(c.calls-before[c.id]) / float64(max(of[c.service], 1))
		}
		list = append(list, a)
	}
	return list
}
