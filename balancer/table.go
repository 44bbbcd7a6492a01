package balancer

import (
	"cmp"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/lines"
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
	traits atomic.Pointer[map[string]traits] // of methods

	checked   atomic.Int64 // when it was last looked at who has stalled, since born
	comparing atomic.Bool  // answers are counted by method, since some were not OK
	compareAt atomic.Int64 // when they may be compared next, since born

	mu         sync.Mutex
	endpoints  map[string]*Endpoint // by address
	listed     int                  // of them, those that channels list
	out        int                  // of those, the ejected
	begun      bool                 // endpoints were listed before: one that comes now is new
	channels   map[channel]*use     // that use the table
	interval   time.Duration        // in which calls are counted
	watched    time.Duration        // when the last failure came, since born; 0 is never
	sampled    time.Duration        // when the counts were sampled last, since born
	comparedAt time.Duration        // when answers were compared last, since born
	ejections  map[Reason]uint64

	reaching      map[chan<- struct{}]int // who choose subsets
	exchangeBegan time.Duration           // when the second began in which exchanged endpoints were
	exchanged     int

	log    *slog.Logger // nil is none
	limit  *lines.Limit
	events []event // to be logged without the lock
}

// channel is one that makes its picker anew soon when it is woken.
type channel interface{ wake() }

// use is how a channel uses a table.
type use struct {
	members   map[string]*member // by address
	panicking bool               // so few can be used that the ejected are, too
}

// NewTable makes an empty table.
func NewTable() *Table { return NewSeededTable(rand.Uint64) }

// WithLogger has log told of ejections and of their ends, as info. It is for a table that
// nobody uses yet, and answers it.
func (t *Table) WithLogger(log *slog.Logger) *Table {
	t.log = cmp.Or(log, slog.Default())
	return t
}

// NewSeededTable makes a table whose channels choose at random by random, so that a
// simulation can be repeated. They are only as safe for concurrent use as random is.
func NewSeededTable(random func() uint64) *Table {
	return &Table{
		born: time.Now(), random: random,
		endpoints: map[string]*Endpoint{}, channels: map[channel]*use{}, ejections: map[Reason]uint64{}, reaching: map[chan<- struct{}]int{},
		limit: lines.New(maxLines),
	}
}

// now is the time since the table was made.
func (t *Table) now() time.Duration { return time.Since(t.born) }

// enter borrows the entries of what is listed for c, and gives back those that it has
// borrowed before. An endpoint that was not there is new, unless all are.
func (t *Table) enter(c channel, listed []resolver.Endpoint, s *Ejection) map[string]*member {
	t.mu.Lock()
	defer t.unlock()
	now := t.now()
	t.forget(now)
	t.interval = time.Duration(s.Interval)
	u := t.channels[c]
	if u == nil {
		u = &use{}
		t.channels[c] = u
	}
	before := u.members
	u.members = make(map[string]*member, len(listed))
	for _, endpoint := range listed {
		if address := addressOf(endpoint); u.members[address] == nil {
			u.members[address] = t.borrow(endpoint, before[address], s)
		}
	}
	t.begun = t.begun || len(u.members) > 0
	for _, m := range before {
		if t.giveBack(m, now); m.users == 0 {
			m.cold = true // it has left the service: should it come back, it is new
			m.Refusals.Lapse()
		}
	}
	t.trim(now, s)
	return u.members
}

// borrow makes a member for endpoint, which was before one before.
func (t *Table) borrow(endpoint resolver.Endpoint, before *member, s *Ejection) *member {
	instance := identify(endpoint)
	e := t.endpoints[instance.Address]
	if e == nil || e.ID != instance.ID {
		// Another instance at this address: it has nothing to do with the old one.
		instance.Refusals = &attempt.Refusals{}
		e = &Endpoint{Instance: instance, table: t, cold: t.begun}
		t.endpoints[instance.Address] = e
	}
	if e.users++; e.users == 1 {
		t.listed++
		e.reach.listed(t.now())
		t.reached()
		if e.ejection.out {
			t.out++
		}
	}
	m := &member{Endpoint: e, listed: endpoint, ejection: *s}
	m.done = func(info balancer.DoneInfo) { e.end(outcomeOf(info), &m.ejection) }
	m.shown = shown{zone: m.zone(), weight: weightOf(endpoint), state: Unconnected, warm: 1}
	if before != nil && before.Endpoint == e {
		m.state, m.shown.state, m.shown.part, m.shown.warm = before.state, before.shown.state, before.shown.part, before.shown.warm
		if m.state == connectivity.Ready {
			e.connected++
		}
	}
	return m
}

func (t *Table) giveBack(m *member, now time.Duration) {
	if m.state == connectivity.Ready {
		m.connected--
		t.noteReach(m.Endpoint, m.connected+1, false, now)
	}
	m.left = now
	if m.users--; m.users == 0 {
		t.listed--
		if m.Endpoint.ejection.out {
			t.out--
		}
	}
}

// leave gives all entries of c back. The endpoints have not gone, the channel has.
func (t *Table) leave(c channel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if u := t.channels[c]; u != nil {
		for _, m := range u.members {
			t.giveBack(m, t.now())
		}
		delete(t.channels, c)
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
	for c := range t.channels {
		c.wake()
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
