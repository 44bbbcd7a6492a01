package balancer

import (
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/rendezvous"
)

// chooseByHash is the endpoint that a hash prefers of those that may be picked (weighted
// rendezvous hashing), or of those without an attempt of the call and that its Avoid does not
// exclude. It is the same for all clients with the same endpoints: weights are the listed ones,
// without slow start and failures, and zones do not count. An ejected endpoint is probed by the
// calls that prefer it. Nil is that none may be picked.
func (r *rotation) chooseByHash(hash uint64, record *attempt.Record) (*Candidate, probe) {
	var avoid *attempt.Avoid
	if record != nil {
		record.SetCandidates(r.view.candidates())
		avoid = record.Avoid()
	}
	allowed := func(c *Candidate) bool {
		return record == nil || !record.Tried(c.Address) && (avoid == nil || avoid.For(&c.Instance) == 0)
	}
	best := r.preference(hash, allowed)
	for i := range r.view.due {
		if c := &r.view.due[i]; newPreference(c, hash).above(best) && allowed(c) {
			if probe, due := c.table.takeDue(c.Endpoint); due {
				return c, probe
			}
		}
	}
	return best.candidate, 0
}

// preference is that of a hash among the endpoints that may be picked.
func (r *rotation) preference(hash uint64, allowed func(*Candidate) bool) preference {
	best := preference{}
	for _, candidates := range [...][]Candidate{r.view.Candidates, r.view.refusing, r.view.otherZones} {
		for i := range candidates {
			if p := newPreference(&candidates[i], hash); p.above(best) && allowed(p.candidate) {
				best = p
			}
		}
	}
	return best
}

// preference is what a hash says of a candidate.
type preference struct {
	candidate *Candidate // nil is below all others
	draw      uint64     // uniformly distributed
}

func newPreference(c *Candidate, hash uint64) preference {
	return preference{c, rendezvous.Draw(hash, c.member.listed.hash)}
}

func (p preference) above(other preference) bool {
	if other.candidate == nil {
		return true
	}
	weight, otherWeight := p.candidate.member.listed.weight, other.candidate.member.listed.weight
	if weight == otherWeight {
		return p.draw > other.draw
	}
	return rendezvous.Score(p.draw, float64(weight)) > rendezvous.Score(other.draw, float64(otherWeight))
}
