package balancer

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/balancer/attempt"
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
}

// NewSet makes an empty set over table, which sets and channels may share. policy is one of
// this module whose package is imported, such as "round_robin"; config is its JSON in a service
// config, with its own fields and the [Settings]. An empty config is the default.
func NewSet(table *Table, policy string, config json.RawMessage) (*Set, error) {
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
	if parsed.hashKey != "" {
		return nil, fmt.Errorf("policy %q needs metadata, which is gRPC's: write another one", policy)
	}
	s := &Set{policy: parsed, table: table, down: map[string]bool{}}
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
}

// Choose chooses the endpoint of an attempt, which is in flight until [Choice.Done]. A record
// after the first chooses an endpoint that its request has not tried, if there is one; nil is a
// first attempt. Answers are compared with those of other endpoints to the same method: give few
// methods. The error is [ErrNoEndpoint], or that of the record's [attempt.Avoid].
func (s *Set) Choose(record *attempt.Record, method string) (*Choice, error) {
	r := s.current.Load()
	if r == nil {
		return nil, ErrNoEndpoint
	}
	now := s.table.now()
	c, probe, err := r.choose(record, now)
	if err != nil {
		return nil, err
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
