package routes

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/rendezvous"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// plan is a chain made ready for calls. Only its counters change.
type plan struct {
	chain  *route.Chain
	routes []*plannedRoute // as in the chain
	ways   map[*attempt.Route]*way

	readsMetadata bool // to match a call
}

type plannedRoute struct {
	*route.Route
	arms []plannedArm
	turn atomic.Uint64
}

type plannedArm struct {
	*route.Arm
	ways []*way // its target, then its failover
}

// way is a target of an arm: where calls of a route may go.
type way struct {
	attempt.Route // for records
	choice        route.Choice
	others        []*way // where a retry may go that finds no untried instance here, by preference
	counts        *counts
}

// counts outlive chains.
type counts struct{ picked, succeeded, failed atomic.Uint64 }

// newPlan prepares chain, which has passed its Check. Counts of ways that the plan before has,
// too, go on.
func newPlan(chain *route.Chain, before *plan) *plan {
	p := &plan{chain: chain, ways: map[*attempt.Route]*way{}, readsMetadata: chain.ReadsMetadata()}
	earlier := before.counts()
	for _, r := range chain.Routes {
		planned := &plannedRoute{Route: r}
		planned.turn.Store(rand.Uint64()) // so that clients started together are not in step
		for _, arm := range r.Arms {
			a := plannedArm{arm, waysOf(chain, r, arm)}
			for _, w := range a.ways {
				w.counts = cmp.Or(earlier[w.countKey()], &counts{})
				p.ways[&w.Route] = w
			}
			planned.arms = append(planned.arms, a)
		}
		planned.linkOthers()
		p.routes = append(p.routes, planned)
	}
	return p
}

// waysOf are those of an arm of r, without counts.
func waysOf(chain *route.Chain, r *route.Route, arm *route.Arm) (ways []*way) {
	for _, id := range slices.Concat([]string{arm.Target}, arm.Failover) {
		target := chain.Targets[id]
		w := &way{
			Route:  attempt.Route{Name: r.Name, Arm: arm.Name, Target: id, Destination: target.Destination(), Retry: RetryOf(r.Retry), Timeout: timeoutOf(r, arm)},
			choice: route.Choice{Route: r, Arm: arm, Target: target},
		}
		if !slices.ContainsFunc(ways, w.sameTarget) {
			ways = append(ways, w)
		}
	}
	return ways
}

// timeoutOf is the timeout of a route, or else that of the resolver of an arm of it; 0 is none.
func timeoutOf(r *route.Route, arm *route.Arm) time.Duration { return cmp.Or(r.Timeout, arm.Timeout) }

// RetryOf is what a route says of retries, for records; nil is nothing. A chain has names of codes
// only.
func RetryOf(r *route.Retry) *attempt.Retry {
	if r == nil {
		return nil
	}
	retry := &attempt.Retry{OnConnectFailure: r.OnConnectFailure}
	if r.Attempts > 0 {
		retry.Attempts = int(r.Attempts) + 1
	}
	for _, name := range r.Codes {
		var code codes.Code
		if err := code.UnmarshalJSON([]byte(strconv.Quote(name))); err == nil {
			retry.Codes = append(retry.Codes, code)
		}
	}
	return retry
}

// countKey identifies a way in chains before and after.
type countKey struct{ route, arm, destination string }

func (w *way) countKey() countKey {
	return countKey{w.Name, w.Arm, w.choice.Target.Destination() + w.choice.Target.Filter}
}

func (p *plan) counts() map[countKey]*counts {
	if p == nil {
		return nil
	}
	all := make(map[countKey]*counts, len(p.ways))
	for _, w := range p.ways {
		all[w.countKey()] = w.counts
	}
	return all
}

// maxOthers bounds where a retry may go besides its target: more attempts make no sense.
const maxOthers = 16

// linkOthers sets where a retry may go: to the other targets of its arm in their order, then
// to those of other arms with calls, the arm with most first.
func (r *plannedRoute) linkOthers() {
	byWeight := slices.Clone(r.arms)
	slices.SortStableFunc(byWeight, func(a, b plannedArm) int { return cmp.Compare(b.Weight, a.Weight) })
	for i := range r.arms {
		for _, w := range r.arms[i].ways {
			w.addOthers(r.arms[i].ways)
			for _, other := range byWeight {
				if other.Weight > 0 && other.Arm != r.arms[i].Arm {
					w.addOthers(other.ways)
				}
			}
		}
	}
}

func (w *way) sameTarget(other *way) bool { return w.Target == other.Target }

func (w *way) addOthers(ways []*way) {
	for _, other := range ways {
		if len(w.others) < maxOthers && other.Target != w.Target && !slices.ContainsFunc(w.others, other.sameTarget) {
			w.others = append(w.others, other)
		}
	}
}

// next is the plan of chain, which is p if that has not changed. p may be nil.
func (p *plan) next(chain *route.Chain) *plan {
	if p != nil && p.chain == chain {
		return p
	}
	return newPlan(chain, p)
}

// draws are where the calls of a plan go, by what is alive. They are immutable.
type draws struct {
	plan   *plan // nil is plain discovery
	err    error // calls fail with it
	routes []drawnRoute
	health map[string]health // of the targets that they go by
}

// planned is the plan of d, or nil. d may be nil.
func (d *draws) planned() *plan {
	if d == nil {
		return nil
	}
	return d.plan
}

// drawnRoute are the odds of a route.
type drawnRoute struct {
	ways []odds
	arms []drawnArm // for sticky routes
}

// odds are those of a way among others: the draws up to and including upTo that are above
// those of the way before.
type odds struct {
	upTo uint64
	way  *way
}

// drawnArm are the odds within an arm.
type drawnArm struct {
	weight float64
	hash   uint64 // of its name
	ways   []odds
}

// share is the part of the calls of a route that take a way.
type share struct {
	way  *way
	part float64
}

// newOdds makes odds of shares, which need not sum to 1.
func newOdds(shares []share) []odds {
	var sum, before float64
	for _, s := range shares {
		sum += s.part
	}
	all := make([]odds, 0, len(shares))
	for _, s := range shares {
		if s.part <= 0 {
			continue
		}
		before += s.part
		all = append(all, odds{uint64(min(before/sum, 1-0x1p-53) * 0x1p64), s.way})
	}
	if len(all) > 0 {
		all[len(all)-1].upTo = math.MaxUint64
	}
	return all
}

// at is the way of a draw.
func at(all []odds, draw uint64) *way {
	for i := range all {
		if draw <= all[i].upTo {
			return all[i].way
		}
	}
	return nil
}

// golden is 2^64 divided by the golden ratio. Its multiples modulo 2^64 are a low-discrepancy
// sequence: any n in a row are spread over the range evenly, with an error of order log(n)/n.
const golden = 0x9E3779B97F4A7C15

// choose draws the way of a call of the i-th route. Nil is a route without a target.
func (d *draws) choose(ctx context.Context, i int) *way {
	if key := d.sticky(i); key != "" {
		if values := metadata.ValueFromOutgoingContext(ctx, key); len(values) > 0 {
			return d.routes[i].stick(values[0])
		}
	}
	return d.turn(i)
}

// sticky is the key by whose value calls of the i-th route stick to an arm; empty without.
func (d *draws) sticky(i int) string {
	if len(d.routes[i].arms) < 2 {
		return ""
	}
	return d.plan.chain.Sticky
}

// turn draws the way of a call of the i-th route that sticks to no arm.
func (d *draws) turn(i int) *way {
	drawn := &d.routes[i]
	if len(drawn.ways) == 1 {
		return drawn.ways[0].way
	}
	return at(drawn.ways, d.plan.routes[i].turn.Add(golden))
}

// stick chooses the arm of a value by weighted rendezvous hashing: a value changes its arm only
// when the arm's part of all weight shrinks, or is empty. It is the same in all processes.
func (r *drawnRoute) stick(value string) *way {
	hash := rendezvous.Hash(value)
	var best *drawnArm
	var most float64
	for i := range r.arms {
		a := &r.arms[i]
		if score := rendezvous.Score(rendezvous.Draw(hash, a.hash), a.weight); best == nil || score > most {
			best, most = a, score
		}
	}
	return at(best.ways, rendezvous.Mix(hash))
}
