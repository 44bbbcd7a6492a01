package balancer

import (
	"slices"
	"time"
)

// Outlook is what the policy of one channel would do with a first attempt now.
type Outlook struct {
	Policy string `json:"policy"`
	// HashKey is the metadata key by whose value the policy picks, if it has one. Hashed says that
	// the call has a value: it goes to one endpoint.
	HashKey string `json:"hash_key,omitempty"`
	Hashed  bool   `json:"hashed,omitempty"`
	Panic   bool   `json:"panic"` // so few are usable that the ejected are used, too
	// Estimated: the odds are counted from draws of the policy, by [OddsDraws].
	Estimated bool              `json:"estimated,omitempty"`
	Endpoints []EndpointOutlook `json:"endpoints"` // by address, those without a connection included
}

// EndpointOutlook is an endpoint with its part of the attempts.
type EndpointOutlook struct {
	EndpointStats
	Odds float64 `json:"odds"` // of the next attempt, from 0 to 1; their sum is 1, or 0 where none is in rotation
	// Due endpoints get one of the next calls whatever the odds: a probe, or the first call of a
	// slow start.
	Due bool `json:"due,omitempty"`
}

// OddsPicker is a [Picker] that can say how likely each candidate is to be picked next. Pickers
// that are not are drawn from.
type OddsPicker interface {
	// Odds are those of the candidates, in their order, with the load that they have. Their sum
	// is 1. Nil is that it cannot say.
	Odds(now time.Duration) []float64
}

// OddsDraws is how often a policy is drawn from that cannot say its odds: an odd of 0.5 is right
// within 0.01, with 4 standard deviations.
const OddsDraws = 40_000

// WeightOdds are the odds where only weights decide.
func WeightOdds(candidates []Candidate) []float64 {
	odds, sum := make([]float64, len(candidates)), 0.0
	for i := range candidates {
		odds[i] = float64(candidates[i].Weight)
		sum += odds[i]
	}
	for i := range odds {
		odds[i] /= sum
	}
	return odds
}

// odds adds those of a call without a hash, and reports whether they are estimated.
func (r *rotation) odds(now time.Duration, to map[*Endpoint]float64) (estimated bool) {
	v := &r.view
	var base []float64
	if policy, ok := r.policy.(OddsPicker); ok {
		base = policy.Odds(now)
	}
	if estimated = base == nil; estimated {
		base = make([]float64, len(v.Candidates))
		for range OddsDraws {
			base[r.policy.Pick(now).position(v.Candidates)] += 1.0 / OddsDraws
		}
	}
	refusing, weights := float64(v.refusingPart)/(1<<32), WeightOdds(v.refusing)
	for i := range v.Candidates {
		best := &v.Candidates[i]
		kept := base[i]
		for j := range v.refusing { // as includeRefusing does
			if c := &v.refusing[j]; !best.lighter(c) {
				moved := base[i] * refusing * weights[j]
				kept -= moved
				to[c.Endpoint] += moved
			}
		}
		to[best.Endpoint] += kept
	}
	return estimated
}

// position is that of c among candidates, of which it is one.
func (c *Candidate) position(candidates []Candidate) int {
	return slices.IndexFunc(candidates, func(other Candidate) bool { return other.Endpoint == c.Endpoint })
}

// dueNow are the endpoints that must get the next calls.
func (r *rotation) dueNow(now time.Duration) map[*Endpoint]bool {
	due := map[*Endpoint]bool{}
	for n := int(r.firstCalls.Load()); n < len(r.view.due); n++ {
		if c := &r.view.due[n]; c.table.isDue(c.Endpoint, now) {
			due[c.Endpoint] = true
		}
	}
	return due
}

// preferred is the endpoint that chooseByHash would choose for a first attempt.
func (r *rotation) preferred(hash uint64, now time.Duration) *Endpoint {
	best := r.preference(hash, func(*Candidate) bool { return true })
	for i := range r.view.due {
		c := &r.view.due[i]
		if p := newPreference(c, hash); p.above(best) && c.table.isDue(c.Endpoint, now) {
			return c.Endpoint
		}
	}
	return best.candidate.Endpoint
}
