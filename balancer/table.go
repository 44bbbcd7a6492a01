package balancer

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

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
	born   time.Time
	random func() uint64
	kinds  atomic.Pointer[map[string]kind] // of methods

	checked atomic.Int64 // when the last checkup was, since born

	mu        sync.Mutex
	endpoints map[string]*Endpoint // by address
	begun     bool                 // endpoints were listed before: one that comes now is new
	channels  map[waker]struct{}   // that use the table
	watched   time.Duration        // when the last failure came, since born; 0 is never
	sampled   time.Duration        // when the counts were sampled last, since born
	panicking bool                 // so few can be used that the ejected are, too
	ejections map[Reason]uint64
}

// waker is a channel that makes its picker anew soon.
type waker interface{ wake() }

// NewTable makes an empty table.
func NewTable() *Table { return newTable(rand.Uint64) }

// NewSeededTable makes a table whose channels choose at random by random, so that a
// simulation can be repeated. They may be as safe for concurrent use as random is.
func NewSeededTable(random func() uint64) *Table { return newTable(random) }

func newTable(random func() uint64) *Table {
	return &Table{
		born: time.Now(), random: random,
		endpoints: map[string]*Endpoint{}, channels: map[waker]struct{}{}, ejections: map[Reason]uint64{},
	}
}

// now is the time since the table was made.
func (t *Table) now() time.Duration { return time.Since(t.born) }

// enter borrows the entries of what is listed and gives those of before back, for
// channel. An endpoint that was not there is new, unless all are.
func (t *Table) enter(before map[string]*member, listed []resolver.Endpoint, channel waker) map[string]*member {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.channels[channel] = struct{}{}
	now := t.now()
	t.forget(now)
	members := make(map[string]*member, len(listed))
	for _, endpoint := range listed {
		instance := identify(endpoint)
		if members[instance.Address] != nil {
			continue
		}
		e := t.endpoints[instance.Address]
		if e == nil || e.ID != instance.ID {
			// Another instance at this address: it has nothing to do with the old one.
			e = &Endpoint{Instance: instance, table: t, cold: t.begun}
			t.endpoints[instance.Address] = e
		}
		e.users++
		m := &member{Endpoint: e, listed: endpoint}
		e.shown.zone, e.shown.weight = m.zone(), weightOf(endpoint)
		members[instance.Address] = m
	}
	t.begun = t.begun || len(members) > 0
	t.release(before, now)
	for _, m := range before {
		if m.users == 0 {
			m.cold = true // it has left the service: should it come back, it is new
		}
	}
	return members
}

// leave gives all entries back. The endpoints have not gone, the channel has.
func (t *Table) leave(members map[string]*member, channel waker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.channels, channel)
	t.release(members, t.now())
}

func (t *Table) release(members map[string]*member, now time.Duration) {
	for _, m := range members {
		m.users--
		m.left = now
	}
}

// forget keeps the table to what is alive and what was of late.
func (t *Table) forget(now time.Duration) {
	for address, e := range t.endpoints {
		if e.users == 0 && now-e.left > forgetAfter {
			delete(t.endpoints, address)
		}
	}
}

// wake makes the channels' pickers anew. The caller holds t.mu.
func (t *Table) wake() {
	for channel := range t.channels {
		channel.wake()
	}
}

// identify names endpoint for the table: a plain address names itself.
func identify(endpoint resolver.Endpoint) attempt.Instance {
	address := addressOf(endpoint)
	if i := InstanceOf(endpoint); i != nil {
		return attempt.Instance{ID: i.ID, Address: address}
	}
	return attempt.Instance{ID: address, Address: address}
}

func addressOf(endpoint resolver.Endpoint) string {
	if len(endpoint.Addresses) == 0 {
		return ""
	}
	return endpoint.Addresses[0].Addr
}
