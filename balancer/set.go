package balancer

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/rendezvous"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// ErrNoEndpoint is the error of [Set.Choose] without an endpoint that can be reached.
var ErrNoEndpoint = errors.New("balancer: no endpoint can be reached")

// Set chooses endpoints for a transport that is not gRPC's, by a policy and its [Settings]. It
// is safe for concurrent use.
//
//	set, err := balancer.NewSet(balancer.NewTable(), "least_request", nil)
//	set.Update(instances)
//	choice, err := set.Choose(record, "GET")
//	... // use choice.Instance()
//	choice.Done(balancer.Result{Outcome: balancer.Succeeded})
type Set struct {
	rebuilds
	policy  configured
	table   *Table
	current atomic.Pointer[rotation] // nil without an endpoint

	mu      sync.Mutex
	closed  bool
	zone    zone
	members map[string]*member // by address
	order   []string           // their addresses, as listed
	down    map[string]bool    // those of them that are unreachable

	alive    atomic.Int64
	onChange func() // of alive; may be nil
}

// NewSet makes an empty set over table, which sets and channels may share. policy is one of
// this module whose package is imported, such as "round_robin"; config is its JSON in a service
// config, with its own fields and the [Settings]. An empty config is the default.
func NewSet(table *Table, policy string, config json.RawMessage) (*Set, error) {
	s, err := NewHashSet(table, policy, config, nil)
	if err == nil && s.policy.hashKey != "" {
		s.Close()
		return nil, fmt.Errorf("policy %q needs metadata, which is gRPC's: write another one", policy)
	}
	return s, err
}

// NewHashSet is NewSet, also with a policy that hashes: [Set.ChooseByHash] gives it the value.
// onChange, if not nil, is called when [Set.Alive] has changed; it must not call the set.
func NewHashSet(table *Table, policy string, config json.RawMessage, onChange func()) (*Set, error) {
	name, err := ownPolicyName(policy)
	if err != nil {
		return nil, err
	}
	if len(config) == 0 {
		config = json.RawMessage("{}")
	}
	parsed, err := policies[name](config)
	if err != nil {
		return nil, err
	}
	s := &Set{policy: parsed, table: table, down: map[string]bool{}, onChange: onChange}
	s.rebuilds.init(s.rebuild)
	s.members = table.update(s, nil, &parsed.settings.Ejection)
	return s, nil
}

// SetZone sets where this process runs. An empty zone is unknown, an empty region any.
func (s *Set) SetZone(region, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone = zone{region, name}
	s.update()
}

// Update replaces the endpoints, by address. Those of the first list start at once, later ones
// slowly. All are taken to be reachable until SetReachable says otherwise.
func (s *Set) Update(instances []catalog.Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	all := make([]listed, len(instances))
	s.order = make([]string, 0, len(instances))
	for i := range instances {
		all[i] = listedInstance(&instances[i])
	}
	s.members = s.table.update(s, all, &s.policy.settings.Ejection)
	ordered := make(map[string]bool, len(all))
	for i := range all {
		if address := all[i].address; !ordered[address] {
			ordered[address] = true
			s.order = append(s.order, address)
		}
	}
	for address := range s.down {
		if !ordered[address] {
			delete(s.down, address)
		}
	}
	s.update()
}

// SetReachable records whether the endpoint at address can be connected to. One that cannot is
// out of rotation; when it is back it starts slowly, without its failures.
func (s *Set) SetReachable(address string, reachable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.members[address] == nil || s.down[address] == !reachable {
		return
	}
	if reachable {
		delete(s.down, address)
	} else {
		s.down[address] = true
	}
	s.update()
}

// rebuild runs when a timer fires.
func (s *Set) rebuild() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.update()
}

// update makes a rotation of the endpoints that can be reached. The caller holds s.mu.
func (s *Set) update() {
	if s.closed {
		return
	}
	start := time.Now()
	children := make([]child, len(s.order))
	for i, address := range s.order {
		children[i] = child{member: s.members[address], state: connected}
		if s.down[address] {
			children[i].state = unreachable
		}
	}
	view := newView(s.table, s, children, &s.policy.settings, s.zone)
	var next *rotation
	if len(view.Candidates) > 0 {
		rotation := newRotation(view, s.policy)
		next = &rotation
	}
	s.current.Store(next)
	s.rebuilds.done(start, view.validFor)
	if alive := int64(len(s.order) - len(s.down) - view.ejections); s.alive.Swap(alive) != alive && s.onChange != nil {
		s.onChange()
	}
}

// Alive is how many endpoints can be connected to and are not ejected.
func (s *Set) Alive() int { return int(s.alive.Load()) }

// HasUntried reports whether an endpoint that may be chosen has no attempt of the request of
// record.
func (s *Set) HasUntried(record *attempt.Record) bool {
	r := s.current.Load()
	return r != nil && r.view.hasUntried(record)
}

// Choose chooses the endpoint of an attempt, which is in flight until [Choice.Done]. A record
// after the first chooses an endpoint that its request has not tried, if there is one; nil is a
// first attempt. Answers are compared with those of other endpoints to the same method: give few
// methods. The error is [ErrNoEndpoint], or that of the record's [attempt.Avoid].
func (s *Set) Choose(record *attempt.Record, method string) (*Choice, error) {
	return s.choose(record, method, nil)
}

// ChooseByHash is Choose for a request with a value: those with the same value go to the same
// endpoint while it can be used.
func (s *Set) ChooseByHash(record *attempt.Record, method, value string) (*Choice, error) {
	return s.choose(record, method, &value)
}

func (s *Set) choose(record *attempt.Record, method string, hashed *string) (*Choice, error) {
	r := s.current.Load()
	if r == nil {
		return nil, ErrNoEndpoint
	}
	now := s.table.now()
	var c *Candidate
	var probe probe
	if hashed != nil {
		c, probe = r.chooseByHash(rendezvous.Hash(*hashed), record)
	}
	if c == nil {
		var err error
		if c, probe, err = r.choose(record, now); err != nil {
			return nil, err
		}
	}
	c.picked.Add(1)
	if record != nil {
		record.SetPicked(&c.Endpoint.Instance)
	}
	x := new(Choice)
	x.begin(c, s.table.methods.of(method, unary), record, probe, now)
	return x, nil
}

func unary(string) attempt.Kind { return attempt.Unary }

// Table is the state of the endpoints.
func (s *Set) Table() *Table { return s.table }

// Close releases the endpoints. Choose fails from then on; choices that are not done stay
// valid.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.current.Store(nil)
	s.table.remove(s)
	s.rebuilds.stop()
}

// Choice is the endpoint of one attempt, which is in flight until Done.
type Choice struct {
	member  *member
	record  *attempt.Record // may be nil
	probe   probe           // 0 if it is none
	method  methodInfo
	start   time.Duration
	counted atomic.Bool // the first response of a stream was counted
	replied bool        // the latency of an attempt that goes on was sampled
}

// begin starts the timer of an attempt on c at now.
func (x *Choice) begin(c *Candidate, method methodInfo, record *attempt.Record, probe probe, now time.Duration) {
	x.member, x.record, x.probe, x.method = c.member, record, probe, method
	x.start = now
	c.table.stallCheck.run(c.table, now)
	if method.kind == attempt.Stream {
		c.streams.Add(1)
	}
}

// Instance is the endpoint that was chosen. Do not change it.
func (x *Choice) Instance() *attempt.Instance { return &x.member.Instance }

// respond records the first response of a stream.
func (x *Choice) respond() {
	x.sampleLatency()
	if x.member.table.comparing.Load() && x.counted.CompareAndSwap(false, true) {
		x.member.answersTo(x.method.slot).ended.Add(1)
	}
	x.endProbe(Succeeded)
}

// Responded records that the endpoint has answered well and that its answer goes on, such as
// the body after the header of an HTTP response. The time until now is a sample of the latency.
// Call it once at most, and not at the time of Done.
func (x *Choice) Responded() {
	x.replied = true
	x.sampleLatency()
	x.endProbe(Succeeded)
	x.member.responded.Add(1)
	x.member.streams.Add(1)
}

func (x *Choice) sampleLatency() {
	now := x.member.table.now()
	x.member.latency.add(now-x.start, now, latencyStep)
	x.member.peak.add(now-x.start, now, 0)
}

// endProbe ends the probe, if the attempt is one. Only the first outcome counts.
func (x *Choice) endProbe(o Outcome) {
	if x.probe != 0 {
		x.member.table.endProbe(x.member.Endpoint, x.probe, o, &x.member.ejectionSettings)
	}
}

// Done ends the attempt. Call it once.
func (x *Choice) Done(result Result) {
	if x.record != nil {
		x.record.SetEnd(result.End)
	}
	member, o := x.member, result.Outcome
	if x.method.kind == attempt.Unary && (o == Succeeded || result.TimedOut) && !x.replied {
		x.sampleLatency()
	}
	x.endProbe(o)
	if x.replied || x.method.kind == attempt.Stream {
		member.streams.Add(-1)
	}
	member.Endpoint.end(o, &member.ejectionSettings)
	if o != Ignored && member.table.comparing.Load() {
		x.countAnswer(result)
	}
}

// countAnswer counts the answer for the comparison with other endpoints. A stream counts at its
// first response, and at its end only if it was refused.
func (x *Choice) countAnswer(result Result) {
	isRefused := result.Outcome != Succeeded
	if !isRefused && result.Unread {
		switch x.method.kind {
		case attempt.Unary: // a reply would have a message
			isRefused = true
		case attempt.Stream:
			if !x.counted.Load() {
				return // it counts when the caller reads that it ended well
			}
		}
	}
	answers := x.member.answersTo(x.method.slot)
	if x.method.kind != attempt.Stream || x.counted.CompareAndSwap(false, true) {
		answers.ended.Add(1)
	}
	if isRefused {
		answers.refused.Add(1)
		x.member.table.compareSoon()
	}
}

// Result is how an attempt ended.
type Result struct {
	Outcome Outcome
	End     attempt.End // for the record of the attempt
	// TimedOut: it has failed by its deadline. Its time is a sample of the latency, while an
	// attempt that failed at once has none.
	TimedOut bool
	// Unread: the transport has ended a call with a success that its caller has not read. It
	// may be an error.
	Unread bool
}
