package balancer

import (
	"cmp"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/rendezvous"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Endpoint is the state of one endpoint, shared by all channels that share its table.
type Endpoint struct {
	attempt.Instance
	table *Table

	// What every pick touches, on a cache line of its own; a test holds it to that.
	picked      atomic.Uint64 // attempts sent here
	ended       atomic.Uint64 // of them, those that ended
	failureRate failureRate
	latency     latency
	timing      timing
	impaired    atomic.Uint32 // impairments. Table.mu guards its changes

	ignored   atomic.Uint64 // ended attempts with the outcome ignored
	streams   atomic.Int64  // attempts in flight that have responded, or are streams
	responded atomic.Uint64 // attempts whose answer went on after the first response
	peak      latency       // falls by time alone: some calls take long by design
	// answers is nil while answers are not compared.
	answers atomic.Pointer[answersByMethod]

	// Table.mu guards the rest.

	users      int           // channels that list it
	connected  int           // of them, those with a connection
	broken     bool          // none has one, and a connection attempt failed
	lastUsedAt time.Duration // when a channel last released it

	startsSlowly bool          // slow start begins when it is next ready
	slowStarted  bool          // slow start has begun once
	slowStartAt  time.Duration // when that was
	firstCallDue bool          // and it has had no call since

	reach    reach
	stall    stall
	refusing refusing
	ejection ejectionState
	_        [48]byte // to a multiple of a cache line, by which the allocator then aligns it
}

// Candidate is an endpoint that can be reached, from which a policy picks. Policies keep
// candidates in their own slice and never change them.
type Candidate struct {
	*Endpoint
	Weight uint32 // at least 1

	member     *member
	connection connection
}

// member is an endpoint of one channel. Table.mu guards state and summary; the rest never
// changes.
type member struct {
	*Endpoint
	listed           listed
	ejectionSettings Ejection

	state   reachability
	summary summary
}

// listed is an endpoint as a channel lists it.
type listed struct {
	id, address string
	weight      uint32 // at least 1
	zone        zone
	hash        uint64 // of what identifies the instance wherever it listens
}

func listedInstance(i *catalog.Instance) listed {
	return listed{i.ID, i.Address, max(i.Weight, 1), zone{i.Region, i.Zone}, rendezvous.Hash(i.Node + "/" + i.ID)}
}

// reachability is the state of a channel's connection to an endpoint.
type reachability uint8

const (
	unconnected reachability = iota // not yet, or not any more
	connected
	unreachable // a connection attempt failed
)

// impairment is a flag of what calls for a second look at an endpoint.
type impairment = uint32

const (
	stalled impairment = 1 << iota // calls are in flight and none ends
	suspect                        // there were failures, so successes are recorded too
)

func (e *Endpoint) is(i impairment) bool { return e.impaired.Load()&i != 0 }

// impair sets i or resets it. The caller holds Table.mu.
func (e *Endpoint) impair(i impairment, on bool) {
	all := e.impaired.Load() &^ i
	if on {
		all |= i
	}
	e.impaired.Store(all)
}

// InFlight counts the attempts that were sent here and have not ended.
func (e *Endpoint) InFlight() int64 {
	ended := e.ended.Load() // first: what ends in between must not count twice
	return int64(e.picked.Load() - ended)
}

// Picks counts all attempts ever sent here.
func (e *Endpoint) Picks() uint64 { return e.picked.Load() }

// Load is [Endpoint.InFlight] as a policy should see it. Recent failures raise it, since an
// endpoint that fails fast would otherwise draw all calls: it needs 1 / (success rate)
// attempts for each answer. One or two failures do not change the load of an idle endpoint,
// so a series of them is detected soon. A stalled endpoint has more load than all others.
func (e *Endpoint) Load() int64 {
	n := e.InFlight()
	if e.failureRate.word.Load() != 0 {
		successRate := 1 - e.failureRate.read(e.table.now())
		n = int64(math.Round(float64(n+1)/successRate - 1))
	}
	if n > 0 && e.is(stalled) {
		n += stallLoad
	}
	return n
}

// Impaired reports whether [Endpoint.Load] may differ from [Endpoint.InFlight], which takes less
// time: policies that compare many endpoints look at it first.
func (e *Endpoint) Impaired() bool { return e.impaired.Load() != 0 }

// lighter reports whether c has less load for its weight than other.
func (c *Candidate) lighter(other *Candidate) bool {
	return c.Load()*int64(other.Weight) < other.Load()*int64(c.Weight)
}

// Latency is the moving average of the time to the first response, in seconds, and its age at
// now. 0 is unknown. It follows a rise at once, and a fall over [LatencyDecay] or some lower
// samples. now is that of [Picker.Pick].
func (e *Endpoint) Latency(now time.Duration) (seconds float64, age time.Duration) {
	return e.latency.read(now)
}

// end counts an ended attempt. Only a bad outcome, or a good one soon after it, takes the lock.
func (e *Endpoint) end(o Outcome, s *Ejection) {
	if o == Ignored {
		e.ended.Add(1)
		e.ignored.Add(1) // last, so that ignored never exceeds ended
		return
	}
	if o != Succeeded && !e.table.comparing.Load() {
		e.table.startComparing()
	}
	if !o.healthy() || e.is(suspect) {
		e.table.recordOutcome(e, o, s)
	}
	e.ended.Add(1)
}

// Outcome classifies the end of an attempt by what it says about its endpoint.
type Outcome uint8

// The outcomes.
const (
	Ignored    Outcome = iota // nothing: the caller cancelled, or nothing was sent
	Succeeded                 // it works, and the answer is good
	Refused                   // it works, with an error that its caller may have caused
	Overloaded                // it works, and rejects load
	Failed                    // it does not work
)

// healthy reports whether the endpoint works and takes load.
func (o Outcome) healthy() bool { return o == Succeeded || o == Refused }

// rotation chooses an endpoint for each attempt: it adds to a policy what is the same for all.
// It is immutable but for its counter.
type rotation struct {
	view       View
	policy     Picker
	timesAll   bool         // the policy needs latencies
	plain      bool         // a call without a record goes where the policy picks
	firstCalls atomic.Int32 // how many of view.due were taken
}

func newRotation(v View, policy configured) rotation {
	return rotation{view: v, policy: policy.newPicker(v), timesAll: policy.latency, plain: len(v.due) == 0 && v.refusingPart == 0}
}

// choose does not allocate, and takes no lock except for a call that an endpoint must get: a
// probe, which is not 0 then, or the first of its slow start. record may be nil. now is for the
// policy.
func (r *rotation) choose(record *attempt.Record, now time.Duration) (*Candidate, probe, error) {
	if record == nil {
		return r.pick(now)
	}
	record.SetCandidates(r.view.candidates())
	if avoid := record.Avoid(); avoid != nil {
		return r.pickAvoiding(record, avoid, now)
	}
	if record.Number() > 1 {
		if c := r.untried(record); c != nil {
			return c, 0, nil
		}
	}
	return r.pick(now)
}

// usable are the endpoints that may be picked, the preferred first.
func (v *View) usable() [3][]Candidate {
	return [...][]Candidate{v.Candidates, v.refusing, v.otherZones}
}

// candidates is how many endpoints may be picked.
func (v *View) candidates() int { return len(v.Candidates) + len(v.refusing) + len(v.otherZones) }

// pick takes an endpoint that must get a call, or the policy's pick.
func (r *rotation) pick(now time.Duration) (*Candidate, probe, error) {
	if len(r.view.due) > 0 {
		if c, probe := r.nextDue(nil); c != nil {
			return c, probe, nil
		}
	}
	return r.includeRefusing(r.policy.Pick(now)), 0, nil
}

// nextDue takes an endpoint that must get a call now, with the probe it is for, or nil. One
// that avoid excludes waits for the next picker.
func (r *rotation) nextDue(avoid *attempt.Avoid) (*Candidate, probe) {
	for int(r.firstCalls.Load()) < len(r.view.due) {
		n := int(r.firstCalls.Add(1))
		if n > len(r.view.due) {
			return nil, 0
		}
		c := &r.view.due[n-1]
		if avoid != nil && avoid.For(&c.Instance) > 0 {
			continue
		}
		if probe, due := c.table.takeDue(c.Endpoint); due {
			return c, probe
		}
	}
	return nil, 0
}

// includeRefusing returns best, the policy's pick, or a refusing endpoint: as often as the
// weights of those say, and only one without more load than best.
func (r *rotation) includeRefusing(best *Candidate) *Candidate {
	v := &r.view
	if v.refusingPart == 0 {
		return best
	}
	random := v.Random()
	if random>>32 >= v.refusingPart {
		return best
	}
	if c := v.drawRefusing(uint32(random)); !best.lighter(c) {
		return c
	}
	return best
}

// maxCompared bounds the endpoints that are compared for a retry.
const maxCompared = 16

// untried is the least loaded endpoint without an earlier attempt of the call: in rotation,
// else refusing, else of another zone, else ejected. Nil if there is none.
func (r *rotation) untried(record *attempt.Record) *Candidate {
	isUntried := func(c *Candidate) bool { return !record.Tried(c.Address) }
	for _, candidates := range r.view.usable() {
		if best := r.lightest(candidates, isUntried); best != nil {
			return best
		}
	}
	return r.lightest(r.view.ejected, isUntried)
}

// policyDraws is how often the policy picks before all candidates are compared.
const policyDraws = 3

// pickAvoiding picks an endpoint that avoid does not exclude: one that must get a call, the
// policy's pick, or the least loaded. A retry goes to an endpoint without an attempt of its
// call while there is one. Only calls with recent refusals get here.
func (r *rotation) pickAvoiding(record *attempt.Record, avoid *attempt.Avoid, now time.Duration) (*Candidate, probe, error) {
	if len(r.view.due) > 0 && record.Number() == 1 {
		if c, probe := r.nextDue(avoid); c != nil {
			return c, probe, nil
		}
	}
	for range policyDraws {
		if c := r.includeRefusing(r.policy.Pick(now)); !record.Tried(c.Address) && avoid.For(&c.Instance) == 0 {
			return c, 0, nil
		}
	}
	best, shortest := r.allowed(record, avoid)
	if best == nil {
		return nil, 0, avoid.Err(shortest)
	}
	return best, 0, nil
}

// allowed is the least loaded endpoint that avoid does not exclude: in rotation, else
// refusing, else of another zone, else one tried before. Ejected endpoints fail. Without one,
// shortest is the time until the first may be picked.
func (r *rotation) allowed(record *attempt.Record, avoid *attempt.Avoid) (best *Candidate, shortest time.Duration) {
	var tried *Candidate
	for _, candidates := range r.view.usable() {
		best = r.lightest(candidates, func(c *Candidate) bool {
			switch left := avoid.For(&c.Instance); {
			case left > 0:
				if shortest == 0 || left < shortest {
					shortest = left
				}
				return false
			case record.Tried(c.Address):
				tried = c
				return false
			default:
				return true
			}
		})
		if best != nil {
			return best, 0
		}
	}
	return tried, shortest
}

// lightest compares up to maxCompared eligible candidates, from a random one on.
func (r *rotation) lightest(candidates []Candidate, eligible func(*Candidate) bool) (best *Candidate) {
	if len(candidates) == 0 {
		return nil
	}
	start := int(r.view.Random() % uint64(len(candidates)))
	for compared, i := 0, 0; i < len(candidates) && compared < maxCompared; i++ {
		c := &candidates[(start+i)%len(candidates)]
		if !eligible(c) {
			continue
		}
		if compared++; best == nil || c.lighter(best) {
			best = c
		}
	}
	return best
}

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
	for _, candidates := range r.view.usable() {
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

// maxTurns bounds the length of a schedule, and so the time to make one. Weights with a larger
// sum are rounded, each by less than 1/16384 of the sum.
const maxTurns = 1 << 14

// Schedule is a round in which each candidate has as many turns as its weight, evenly spread.
// It is immutable.
type Schedule struct {
	candidates uint32
	order      []uint32 // nil if all weights are equal: each in turn
}

// NewSchedule makes the schedule of one candidate or more.
func NewSchedule(candidates []Candidate) Schedule {
	weights := make([]uint32, len(candidates))
	for i := range candidates {
		weights[i] = candidates[i].Weight
	}
	s := Schedule{candidates: uint32(len(candidates))}
	if weights = reduce(weights); slices.Max(weights) > 1 {
		s.order = spread(weights)
	}
	return s
}

// At is the index of the candidate with the n-th turn, for any n.
func (s Schedule) At(n uint32) int {
	if s.order == nil {
		return int(n % s.candidates)
	}
	return int(s.order[n%uint32(len(s.order))])
}

// at is At of a turn at random, without a division.
func (s Schedule) at(random uint64) int {
	if s.order == nil {
		return int(random >> 32 * uint64(s.candidates) >> 32)
	}
	return int(s.order[random>>32*uint64(len(s.order))>>32])
}

// maxDraws bounds the random draws for an index not drawn before, since one weight above all
// others could make them many.
const maxDraws = 16

// Draw is the index of a candidate at random, by weight, that is not in taken. There must be
// one.
func (s Schedule) Draw(taken []int, random func() uint64) int {
	i := s.at(random())
	for range maxDraws {
		if !slices.Contains(taken, i) {
			return i
		}
		i = s.at(random())
	}
	for slices.Contains(taken, i) {
		i = (i + 1) % int(s.candidates)
	}
	return i
}

// spread orders the turns by earliest deadline first, as Envoy does: the deadline of turn k of
// weight w is (k + phase) / w of the round. Candidates of one weight differ in phase, so that
// their turns do not follow each other.
func spread(weights []uint32) []uint32 {
	type turn struct {
		deadline  float64
		candidate uint32
	}
	alike, before, sum := map[uint32]int{}, map[uint32]int{}, uint32(0)
	for _, w := range weights {
		alike[w]++
		sum += w
	}
	turns := make([]turn, 0, sum)
	for i, w := range weights {
		phase := (float64(before[w]) + 0.5) / float64(alike[w])
		before[w]++
		for k := range w {
			turns = append(turns, turn{(float64(k) + phase) / float64(w), uint32(i)})
		}
	}
	slices.SortFunc(turns, func(a, b turn) int {
		if a.deadline != b.deadline {
			return cmp.Compare(a.deadline, b.deadline)
		}
		return cmp.Compare(a.candidate, b.candidate)
	})
	order := make([]uint32, len(turns))
	for i, t := range turns {
		order[i] = t.candidate
	}
	return order
}

// reduce makes weights as small as their proportions allow, and rounds them where the sum is
// still too large. No weight becomes 0.
func reduce(weights []uint32) []uint32 {
	divisor, sum := uint32(0), uint64(0)
	for _, w := range weights {
		divisor = gcd(divisor, w)
		sum += uint64(w)
	}
	sum /= uint64(divisor)
	reduced := make([]uint32, len(weights))
	for i, w := range weights {
		reduced[i] = w / divisor
		if sum > maxTurns {
			reduced[i] = max(1, uint32((uint64(reduced[i])*maxTurns+sum/2)/sum))
		}
	}
	return reduced
}

func gcd(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
