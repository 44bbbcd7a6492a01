package balancer

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/resolver"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// forgetAfter is how long an endpoint that nobody uses is remembered. It outlives
// an idle channel (30 min) that comes back soon after.
const forgetAfter = time.Hour

// Table remembers the endpoints of one target: what is learned of them outlives
// updates of the resolver, reconnects and idleness. It is safe for concurrent
// use, and channels to one target may share it.
type Table struct {
	mu        sync.Mutex
	endpoints map[string]*Endpoint // by address
}

// Endpoint is what is known of one endpoint.
type Endpoint struct {
	attempt.Instance

	// InFlight counts the attempts that were picked and are not done.
	InFlight atomic.Int64

	users int       // pickers' sets that it is in, guarded by Table.mu
	left  time.Time // when it last left one, guarded by Table.mu
	_     [64]byte  // keeps the counters of two endpoints off one cache line
}

// NewTable makes an empty table.
func NewTable() *Table { return &Table{endpoints: map[string]*Endpoint{}} }

// Exchange gives the entries in old back and borrows those of instances, in their
// order. What nobody has borrowed for an hour is forgotten: the table holds what
// is alive and what was of late.
func (t *Table) Exchange(old []*Endpoint, instances []attempt.Instance) []*Endpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for _, e := range old {
		e.users--
		e.left = now
	}
	found := make([]*Endpoint, len(instances))
	for i, instance := range instances {
		e := t.endpoints[instance.Address]
		if e == nil || e.ID != instance.ID {
			// Another instance at this address: it has nothing to do with the old one.
			e = &Endpoint{Instance: instance}
			t.endpoints[instance.Address] = e
		}
		e.users++
		found[i] = e
	}
	for address, e := range t.endpoints {
		if e.users == 0 && now.Sub(e.left) > forgetAfter {
			delete(t.endpoints, address)
		}
	}
	return found
}

type tableKey struct{}

// WithTable hands t to the policies of the channel that gets state.
func WithTable(state resolver.State, t *Table) resolver.State {
	state.Attributes = state.Attributes.WithValue(tableKey{}, t)
	return state
}

type reasonKey struct{}

// WithReason says why state has no endpoints, for the error that calls fail with.
func WithReason(state resolver.State, reason error) resolver.State {
	state.Attributes = state.Attributes.WithValue(reasonKey{}, reason)
	return state
}

func reasonOf(a *attributes.Attributes, target resolver.Target) error {
	if reason, ok := a.Value(reasonKey{}).(error); ok {
		return reason
	}
	return fmt.Errorf("%s://%s/%s has no address: is the name right?", target.URL.Scheme, target.URL.Host, target.Endpoint())
}

func tableOf(a *attributes.Attributes) *Table {
	t, _ := a.Value(tableKey{}).(*Table)
	return t
}
