package routes

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// Set sends requests of HTTP where a chain says, by what is alive, for a transport that is not
// gRPC's: what [Router] and the policy are to a channel. It has a [balancer.Set], with a table of
// its own, for each target. It is safe for concurrent use.
//
//	set.Update(routes.Snapshot{Chain: chain, Targets: targets})
//	choice, at, err := set.Choose(request) // once for a request
//	record.SetRoute(at)
//	endpoint, err := set.Pick(record, request, request.Method) // for each attempt
//	... // use endpoint.Instance(), then
//	endpoint.Done(balancer.Result{Outcome: balancer.Succeeded})
//	set.Count(record.Latest().Route(), true)
//
// Without a chain it is one balancer.Set. An endpoint whose connection fails is out of rotation by
// SetReachable, so a target with one counts as alive until it is tried.
type Set struct {
	reporter
	policy    config // of targets without one
	startedAt time.Time
	current   atomic.Pointer[sending]
	stale     atomic.Bool  // what is alive has changed since the draws
	againAt   atomic.Int64 // since startedAt, when draws change though nothing happens; 0 is never

	mu           sync.Mutex
	region, zone string
	closed       bool
	err          error                    // of the last Update
	leaves       map[destination]*setLeaf // of the targets of now
	open         map[*setLeaf]bool        // those, and those of earlier chains
	lines        []line                   // to be logged
}

// Snapshot is what a directory says of where requests go.
type Snapshot struct {
	Chain *route.Chain // nil is plain discovery
	// Err is why Chain is not the newest. With Failed there is none to use, and requests fail
	// with it.
	Err     error
	Failed  bool
	Targets []Target // of Chain; without one, the first is the service
}

// Target is a target of a chain with its instances.
type Target struct {
	ID        string // in the chain; empty without a chain
	Instances []catalog.Instance
	Known     int // instances in the directory, the unhealthy included
}

// setLeaf is a target. Set.mu guards it, but for its set.
type setLeaf struct {
	tracked
	set   *balancer.Set
	table *balancer.Table
	child child
}

// sending is where requests go. It is immutable.
type sending struct {
	*draws                     // nil is plain discovery
	leaves map[string]*setLeaf // by the ID of their target
	// earlier are those before, newest first: a request that was sent somewhere goes there.
	earlier    []*sending
	replacedAt time.Time
}

// An earlier chain is kept for requests that are between their choice and their end.
const (
	maxEarlier = 16
	earlierTTL = time.Minute
)

// NewSet makes a set without instances. policy, with its config, is as in [balancer.NewSet]: that
// of targets whose service-resolver has none. Close it.
func NewSet(policy string, text json.RawMessage, opts ...Option) (*Set, error) {
	settings := defaults()
	for _, o := range opts {
		o(&settings)
	}
	if err := settings.check(); err != nil {
		return nil, err
	}
	if len(text) == 0 {
		text = json.RawMessage("{}")
	}
	checked, err := balancer.NewSet(balancer.NewTable(), policy, text)
	if err != nil {
		return nil, err
	}
	checked.Close()
	own, err := newChild(ownPrefix+strings.TrimPrefix(policy, ownPrefix), text)
	if err != nil {
		return nil, err
	}
	s := &Set{reporter: newReporter(settings), policy: config{child: own}, startedAt: time.Now(), open: map[*setLeaf]bool{}}
	s.current.Store(&sending{})
	return s, s.Update(Snapshot{})
}

// SetZone sets where this process runs, as that of [balancer.Set]. Call it before Update.
func (s *Set) SetZone(region, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.region, s.zone = region, name
	for l := range s.open {
		l.set.SetZone(region, name)
	}
}

// Update replaces the chain and the instances, at once. Requests that were sent to a target of an
// earlier chain still go there. An error leaves what was.
func (s *Set) Update(to Snapshot) error {
	if to.Chain != nil {
		if err := to.Chain.Check(); err != nil {
			return err
		}
	} else {
		to.Targets = append(slices.Clone(to.Targets), Target{})[:1]
		to.Targets[0].ID = ""
	}
	children, err := s.childrenOf(to)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.unlock()
	if s.closed {
		return nil
	}
	before := s.current.Load()
	next := &sending{leaves: make(map[string]*setLeaf, len(to.Targets))}
	if err := s.list(to, children, next); err != nil {
		return err
	}
	s.err = to.Err
	switch {
	case to.Failed:
		next.draws = &draws{err: to.Err}
	case to.Chain != nil:
		next.draws = &draws{plan: before.planned().next(to.Chain)}
	}
	next.keep(before)
	s.draw(next)
	s.release(next)
	return nil
}

// childrenOf are the policies of the targets.
func (s *Set) childrenOf(to Snapshot) ([]child, error) {
	policies, children := policiesOf(to.Chain), make([]child, len(to.Targets))
	for i, t := range to.Targets {
		var err error
		if children[i], err = s.policy.of(policies[t.ID]); err != nil {
			return nil, fmt.Errorf("routes: target %q: %w", t.ID, err)
		}
	}
	return children, nil
}

// list gives each target its leaf and its instances. The caller holds s.mu.
func (s *Set) list(to Snapshot, children []child, next *sending) error {
	leaves := map[destination]*setLeaf{}
	for i, t := range to.Targets {
		var target *route.Target
		name := "the service"
		if to.Chain != nil {
			if target = to.Chain.Targets[t.ID]; target == nil {
				return fmt.Errorf("routes: the chain has no target %q", t.ID)
			}
			name = target.String()
		}
		key := destinationOf(to.Chain, target)
		l := leaves[key]
		if l == nil {
			var err error
			if l, err = s.leaf(s.leaves[key], children[i]); err != nil {
				return err
			}
			leaves[key] = l
			l.name, l.known = name, max(t.Known, len(t.Instances))
			l.set.Update(t.Instances)
		}
		next.leaves[t.ID] = l
	}
	s.leaves = leaves
	return nil
}

// leaf is the one that a destination has, or a new one with the same table if its policy has
// changed.
func (s *Set) leaf(had *setLeaf, c child) (*setLeaf, error) {
	if had != nil && had.child.same(c) {
		return had, nil
	}
	l := &setLeaf{child: c}
	if had != nil {
		l.table, l.tracked = had.table, had.tracked
	} else {
		l.table = balancer.NewTable().WithLogger(s.log)
	}
	var err error
	l.set, err = balancer.NewHashSet(l.table, c.builder.Name(), json.RawMessage(c.text), func() { s.stale.Store(true) })
	if err != nil {
		return nil, err
	}
	l.set.SetZone(s.region, s.zone)
	s.open[l] = true
	return l, nil
}

// keep remembers what was before, unless that has the same plan.
func (x *sending) keep(before *sending) {
	now := time.Now()
	if x.planned() != before.planned() || (x.draws == nil) != (before.draws == nil) {
		last := *before
		last.earlier, last.replacedAt = nil, now
		x.earlier = append(x.earlier, &last)
	}
	for _, old := range before.earlier {
		if len(x.earlier) < maxEarlier && now.Sub(old.replacedAt) < earlierTTL {
			x.earlier = append(x.earlier, old)
		}
	}
}

// release closes the leaves that no request can go to any more. The caller holds s.mu.
func (s *Set) release(now *sending) {
	used := map[*setLeaf]bool{}
	for _, x := range append([]*sending{now}, now.earlier...) {
		for _, l := range x.leaves {
			used[l] = true
		}
	}
	for l := range s.open {
		if !used[l] {
			delete(s.open, l)
			l.set.Close()
		}
	}
}

// draw has requests go by what is alive now. The caller holds s.mu.
func (s *Set) draw(next *sending) {
	s.stale.Store(false)
	s.againAt.Store(0)
	if plan := next.planned(); plan != nil {
		now, again := time.Now(), time.Duration(0)
		for _, l := range s.leaves {
			again = soonest(again, l.examine(now, &s.settings))
		}
		next.draws = plan.draw(next.health)
		if again > 0 {
			s.againAt.Store(int64(now.Add(again).Sub(s.startedAt)))
		}
		s.logChanges(next)
	}
	s.current.Store(next)
}

// examine takes the leaf's health. It returns when to do so again though nothing changes; 0 is
// never.
func (l *setLeaf) examine(now time.Time, s *settings) (again time.Duration) {
	usable := l.set.Alive()
	return l.track(health{known: l.known, usable: usable, ready: usable > 0, built: true}, now, s)
}

// health is that of a target. Set.mu guards it.
func (x *sending) health(id string) health {
	if l := x.leaves[id]; l != nil {
		return l.health
	}
	return health{}
}

// logChanges notes what has changed of targets. The caller holds s.mu.
func (s *Set) logChanges(x *sending) {
	for id, now := range x.plan.conditions(x.health) {
		if l := x.leaves[id]; l != nil {
			s.lines = append(s.lines, l.change(now)...)
		}
	}
}

// unlock unlocks s.mu and logs the lines since: a slow handler must not block requests.
func (s *Set) unlock() {
	lines := s.lines
	s.lines = nil
	s.mu.Unlock()
	if len(lines) > 0 {
		s.report(lines)
	}
}

// fresh is where requests go by what is alive now: the first request after a change draws anew.
func (s *Set) fresh() *sending {
	x := s.current.Load()
	if x.planned() == nil {
		return x
	}
	againAt := s.againAt.Load()
	if !s.stale.Load() && (againAt == 0 || int64(time.Since(s.startedAt)) < againAt) {
		return x
	}
	s.mu.Lock()
	defer s.unlock()
	if x = s.current.Load(); !s.closed && x.planned() != nil {
		next := *x
		s.draw(&next)
		return &next
	}
	return x
}

// Choose draws the route, arm and target of a request. Call it once for a request; its attempts
// share the result by their record. Without a chain all results are nil or zero.
func (s *Set) Choose(r *http.Request) (route.Choice, *attempt.Route, error) {
	x := s.fresh()
	switch {
	case x.draws == nil:
		return route.Choice{}, nil, nil
	case x.err != nil:
		return route.Choice{}, nil, x.err
	}
	_, i := x.plan.chain.MatchHTTP(r)
	if i < 0 {
		return route.Choice{}, nil, errNoRoute
	}
	var w *way
	if key := x.sticky(i); key != "" && r.Header.Get(key) != "" {
		w = x.routes[i].stick(r.Header.Get(key))
	} else {
		w = x.turn(i)
	}
	if w == nil {
		return route.Choice{}, nil, errNoRoute
	}
	return w.choice, &w.Route, nil
}

// Pick picks the endpoint of an attempt of r, which goes where its record says. A target without
// a live endpoint, or for a retry without an untried one, is replaced by another of its route, in
// the record, too. Answers to the same method are compared: give few. The error is
// [balancer.ErrNoEndpoint].
func (s *Set) Pick(record *attempt.Record, r *http.Request, method string) (*balancer.Choice, error) {
	x, w := s.current.Load().find(record.Route())
	if x == nil {
		return nil, balancer.ErrNoEndpoint
	}
	if w == nil {
		return x.leaves[""].set.Choose(record, method)
	}
	retry, l := record.Number() > 1, x.leaves[w.Target]
	if !l.takes(record, retry) {
		if i := slices.IndexFunc(w.others, func(other *way) bool { return x.leaves[other.Target].takes(record, retry) }); i >= 0 {
			w = w.others[i]
			l = x.leaves[w.Target]
			record.SetRoute(&w.Route)
		}
	}
	if l == nil {
		return nil, balancer.ErrNoEndpoint
	}
	choice, err := l.choose(record, method, w.choice.Arm.LoadBalancer, r)
	if err != nil {
		return nil, err
	}
	w.counts.picked.Add(1)
	n := l.alive()
	for _, other := range w.others {
		n += x.leaves[other.Target].alive()
	}
	record.SetCandidates(n)
	return choice, nil
}

// find returns where requests that were sent to at go: now, or by an earlier chain. at is nil for
// plain discovery.
func (x *sending) find(at *attempt.Route) (*sending, *way) {
	for i := -1; i < len(x.earlier); i++ {
		one := x
		if i >= 0 {
			one = x.earlier[i]
		}
		switch {
		case at == nil && one.draws == nil:
			return one, nil
		case at != nil && one.planned() != nil && one.plan.ways[at] != nil:
			return one, one.plan.ways[at]
		}
	}
	return nil, nil
}

// alive is how many endpoints of the leaf can be used. It may be nil.
func (l *setLeaf) alive() int {
	if l == nil {
		return 0
	}
	return l.set.Alive()
}

// takes reports whether an attempt may go to the leaf, which may be nil.
func (l *setLeaf) takes(record *attempt.Record, retry bool) bool {
	return l.alive() > 0 && (!retry || l.set.HasUntried(record))
}

// choose chooses by the hash that the target's policy asks for.
func (l *setLeaf) choose(record *attempt.Record, method string, lb *route.LoadBalancer, r *http.Request) (*balancer.Choice, error) {
	if value := hashed(lb, r); value != "" {
		return l.set.ChooseByHash(record, method, value)
	}
	return l.set.Choose(record, method)
}

// hashed is the value of r that decides its endpoint; empty is none. The address is the one that
// a proxy writes to X-Forwarded-For.
func hashed(lb *route.LoadBalancer, r *http.Request) string {
	if lb == nil || lb.Policy != "ring_hash" && lb.Policy != "maglev" {
		return ""
	}
	switch lb.HashFrom {
	case route.FromCookie:
		if cookie, err := r.Cookie(lb.HashKey); err == nil {
			return cookie.Value
		}
		return ""
	case route.FromQuery:
		return r.URL.Query().Get(lb.HashKey)
	case route.FromAddress:
		return r.Header.Get("X-Forwarded-For")
	default:
		return r.Header.Get(lb.HashKey)
	}
}

// Count counts the end of a request that Choose, or a retry, has sent to at. nil counts nothing.
func (s *Set) Count(at *attempt.Route, succeeded bool) {
	if at == nil {
		return
	}
	if _, w := s.current.Load().find(at); w != nil {
		if succeeded {
			w.counts.succeeded.Add(1)
		} else {
			w.counts.failed.Add(1)
		}
	}
}

// SetReachable records whether the endpoint at address can be connected to, for all targets.
func (s *Set) SetReachable(address string, reachable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.open {
		l.set.SetReachable(address, reachable)
	}
}

// Stats returns what the set does now.
func (s *Set) Stats() Stats {
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	return s.fresh().stats(err)
}

// Endpoints returns the state of the endpoints of all targets, each address once.
func (s *Set) Endpoints() balancer.TableStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := balancer.TableStats{Ejections: map[balancer.Reason]uint64{}, Endpoints: []balancer.EndpointStats{}}
	listed := map[string]bool{}
	for _, l := range s.leaves {
		stats := l.table.Stats()
		all.Panic = all.Panic || stats.Panic
		for reason, n := range stats.Ejections {
			all.Ejections[reason] += n
		}
		for _, e := range stats.Endpoints {
			if !listed[e.Address] {
				listed[e.Address] = true
				all.Endpoints = append(all.Endpoints, e)
			}
		}
	}
	slices.SortFunc(all.Endpoints, func(a, b balancer.EndpointStats) int { return strings.Compare(a.Address, b.Address) })
	return all
}

// Close releases the endpoints. Pick fails from then on; choices that are not done stay valid.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for l := range s.open {
		l.set.Close()
	}
}
