package balancer

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"

	"github.com/meshlite-go/meshlite/internal/rendezvous"
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

// Window shows the outlook of one channel. It is safe for concurrent use; the zero value shows
// none.
type Window struct {
	current atomic.Pointer[endpointBalancer]
}

// Outlook is that of the policy that the channel has now, for a call with the outgoing metadata of
// ctx. It is false while the channel is idle, and for policies of other modules.
func (w *Window) Outlook(ctx context.Context) (Outlook, bool) {
	if b := w.current.Load(); b != nil {
		return b.Outlook(ctx), true
	}
	return Outlook{}, false
}

type windowKey struct{}

// WithWindow has w show the policy that gets state.
func WithWindow(state resolver.State, w *Window) resolver.State {
	state.Attributes = state.Attributes.WithValue(windowKey{}, w)
	return state
}

// show has the window of state show b, and that of the state before no more. The caller holds b.mu.
func (b *endpointBalancer) show(state resolver.State) {
	w, _ := state.Attributes.Value(windowKey{}).(*Window)
	if w == b.window {
		return
	}
	b.hide()
	if b.window = w; w != nil {
		w.current.Store(b)
	}
}

func (b *endpointBalancer) hide() {
	if b.window != nil {
		b.window.current.CompareAndSwap(b, nil)
	}
}

// Outlook picks nothing: it changes no state that calls see. Policies that are above several of
// this kind assert for it.
func (b *endpointBalancer) Outlook(ctx context.Context) Outlook {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := Outlook{Policy: b.name, HashKey: b.policy.hashKey}
	odds, due := map[*Endpoint]float64{}, map[*Endpoint]bool{}
	now := b.table.now()
	if b.current != nil {
		values := metadata.ValueFromOutgoingContext(ctx, b.policy.hashKey)
		o.Hashed = b.policy.hashKey != "" && len(values) > 0
		if o.Hashed {
			odds[b.current.preferred(rendezvous.Hash(values[0]), now)] = 1
		} else {
			o.Estimated = b.current.odds(now, odds)
			due = b.current.dueNow(now)
		}
	}
	t := b.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if u := t.channels[b]; u != nil {
		o.Panic = u.panicking
	}
	var picks uint64
	for _, m := range b.members {
		o.Endpoints = append(o.Endpoints, EndpointOutlook{m.Endpoint.stats(m.summary, now), odds[m.Endpoint], due[m.Endpoint]})
		picks += m.Picks()
	}
	for i := range o.Endpoints {
		o.Endpoints[i].Share = float64(o.Endpoints[i].Picks) / float64(max(picks, 1))
	}
	slices.SortFunc(o.Endpoints, func(a, b EndpointOutlook) int { return cmp.Compare(a.Address, b.Address) })
	return o
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
