package balancer

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/lines"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// unusedExpiry is how long an endpoint without channels is remembered. It exceeds the idle
// timeout of a channel (30 min).
const unusedExpiry = time.Hour

// Table is the state of the endpoints of one target. It outlives resolver updates, reconnects
// and idle channels. It is safe for concurrent use, and channels to one target may share it.
type Table struct {
	createdAt time.Time // all other times are since then
	random    func() uint64
	methods   methodTable

	stallCheck    stallCheck
	comparing     atomic.Bool  // answers are counted by method, since some were not OK
	nextCompareAt atomic.Int64 // when they may be compared next

	mu            sync.Mutex
	endpoints     map[string]*Endpoint // by address
	listed        int                  // of them, those that channels list
	ejected       int                  // of those, the ejected
	started       bool                 // endpoints were listed before: others are new and start slowly
	channels      map[channel]*channelUse
	interval      time.Duration // of success rates
	lastFailureAt time.Duration // 0 is never
	sampledAt     time.Duration
	comparedAt    time.Duration
	ejections     map[Reason]uint64
	subsets       subsets

	log    *slog.Logger // nil is none
	limit  *lines.Limit
	events []event // to be logged without the lock
}

// channel is who uses a table, such as a channel of gRPC. It is notified when its rotation must be
// rebuilt.
type channel interface{ wake() }

// channelUse is how a channel uses a table.
type channelUse struct {
	members   map[string]*member // by address
	panicking bool               // so few are usable that the ejected are used, too
}

// NewTable makes an empty table.
func NewTable() *Table { return NewSeededTable(rand.Uint64) }

// WithLogger logs ejections and readmissions to log, at level info. Call it before the table is
// used. It returns t.
func (t *Table) WithLogger(log *slog.Logger) *Table {
	t.log = cmp.Or(log, slog.Default())
	return t
}

// NewSeededTable makes a table with its own source of random bits, for simulations that can be
// repeated. random must be safe for concurrent use if the table is used concurrently.
func NewSeededTable(random func() uint64) *Table {
	return &Table{
		createdAt: time.Now(), random: random, methods: methodTable{Table: rpc.Table[string, methodInfo]{Max: maxMethods}},
		endpoints: map[string]*Endpoint{}, channels: map[channel]*channelUse{}, ejections: map[Reason]uint64{},
		subsets: subsets{wakes: map[chan<- struct{}]int{}},
		limit:   lines.New(maxLogRate),
	}
}

// now is the time since the table was created.
func (t *Table) now() time.Duration { return time.Since(t.createdAt) }

// update replaces the endpoints that c lists, and returns its members by address. An endpoint is new if
// the table did not have it, unless it had none at all.
func (t *Table) update(c channel, endpoints []listed, s *Ejection) map[string]*member {
	t.mu.Lock()
	defer t.unlock()
	now := t.now()
	t.expire(now)
	t.interval = time.Duration(s.Interval)
	u := t.channels[c]
	if u == nil {
		u = &channelUse{}
		t.channels[c] = u
	}
	before := u.members
	u.members = make(map[string]*member, len(endpoints))
	for _, endpoint := range endpoints {
		if u.members[endpoint.address] == nil {
			u.members[endpoint.address] = t.acquire(endpoint, before[endpoint.address], s)
		}
	}
	t.started = t.started || len(u.members) > 0
	for _, m := range before {
		if t.release(m, now); m.users == 0 {
			m.startsSlowly = true // it left the service: if it returns, it is new
			m.Refusals.Reset()
		}
	}
	t.enforceMaxEjection(now, s)
	return u.members
}

// acquire makes the member of an endpoint. before is the member at its address before.
func (t *Table) acquire(endpoint listed, before *member, s *Ejection) *member {
	instance := attempt.Instance{ID: endpoint.id, Address: endpoint.address, Zone: endpoint.zone.name}
	e := t.endpoints[instance.Address]
	if e == nil || e.ID != instance.ID { // another instance at this address has no history
		instance.Refusals = &attempt.Refusals{}
		e = &Endpoint{Instance: instance, table: t, startsSlowly: t.started}
		t.endpoints[instance.Address] = e
	}
	if e.users++; e.users == 1 {
		t.listed++
		e.reach.listed(t.now())
		t.notifySubsets()
		if e.ejection.ejected {
			t.ejected++
		}
	}
	m := &member{Endpoint: e, listed: endpoint, ejectionSettings: *s}
	m.summary = summary{zone: endpoint.zone, weight: endpoint.weight, state: Unconnected, slowStart: 1}
	if before != nil && before.Endpoint == e {
		m.state, m.summary.state, m.summary.weightPart, m.summary.slowStart = before.state, before.summary.state, before.summary.weightPart, before.summary.slowStart
		if m.state == connected {
			e.connected++
		}
	}
	return m
}

// release undoes acquire.
func (t *Table) release(m *member, now time.Duration) {
	if m.state == connected {
		m.connected--
		t.updateReach(m.Endpoint, m.connected+1, false, now)
	}
	m.lastUsedAt = now
	if m.users--; m.users == 0 {
		t.listed--
		if m.Endpoint.ejection.ejected {
			t.ejected--
		}
	}
}

// remove releases all members of c, which is closed. Its endpoints are still in the service.
func (t *Table) remove(c channel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if u := t.channels[c]; u != nil {
		for _, m := range u.members {
			t.release(m, t.now())
		}
		delete(t.channels, c)
	}
}

// expire deletes endpoints that were not used for long.
func (t *Table) expire(now time.Duration) {
	for address, e := range t.endpoints {
		if e.users == 0 && now-e.lastUsedAt > unusedExpiry {
			delete(t.endpoints, address)
		}
	}
}

// setState records the state of a connection. An endpoint whose channels all lost their
// connection and could not reconnect may have been restarted: when it is connected again, its
// failures are dropped.
func (t *Table) setState(m *member, state reachability, now time.Duration) {
	e := m.Endpoint
	before := e.connected
	if m.state == connected {
		e.connected--
	}
	m.state = state
	switch {
	case state == connected:
		if e.connected++; e.broken {
			e.broken = false
			e.Refusals.Reset()
			t.admit(e, reconnected, now)
		}
	case state == unreachable && e.connected == 0:
		e.broken = true
	}
	t.updateReach(e, before, state == unreachable, now)
}

// wake rebuilds the pickers of all channels. The caller holds t.mu.
func (t *Table) wake() {
	for c := range t.channels {
		c.wake()
	}
}

// maxLogRate is how many lines a table logs in a second.
const maxLogRate = 20

// event is an ejection or a readmission, to be logged.
type event struct {
	instance attempt.Instance
	message  string
	reason   string
	time     slog.Attr
	ejected  int // endpoints that are ejected now
	listed   int // of so many
}

// logLater adds an event, which unlock logs. The caller holds t.mu.
func (t *Table) logLater(e *Endpoint, message, reason string, time slog.Attr) {
	if t.log != nil {
		t.events = append(t.events, event{e.Instance, message, reason, time, t.ejected, t.listed})
	}
}

// unlock unlocks t.mu and logs the events since: a slow log handler must not block picks.
func (t *Table) unlock() {
	events := t.events
	t.events = nil
	t.mu.Unlock()
	if t.log == nil || len(events) == 0 && !t.limit.Owes() {
		return
	}
	ctx, now := context.Background(), time.Now()
	if !t.log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	t.limit.Settle(now, func(level slog.Level, n uint64) {
		t.log.LogAttrs(ctx, level, "ejections left out of the log", slog.Uint64("count", n))
	})
	for _, e := range events {
		if t.limit.Admit(slog.LevelInfo, now) {
			t.log.LogAttrs(ctx, slog.LevelInfo, e.message,
				slog.String("instance", e.instance.ID), slog.String("address", e.instance.Address),
				slog.String("reason", e.reason), e.time, slog.Int("ejected", e.ejected), slog.Int("endpoints", e.listed))
		}
	}
}

// State is what a channel does with an endpoint.
type State string

// The states.
const (
	InRotation  State = "in_rotation"
	SlowStarted State = "slow_start" // in rotation, with a growing weight
	OtherZone   State = "other_zone" // its zone gets no calls from here
	Ejected     State = "ejected"
	Unconnected State = "no_connection"
)

// rank orders states by use. Of an endpoint in several channels the most used state is shown.
func (s State) rank() int {
	return slices.Index([]State{Unconnected, Ejected, OtherZone, SlowStarted, InRotation}, s)
}

// summary is the state of an endpoint in the newest view of a channel.
type summary struct {
	zone       zone
	weight     uint32  // as listed
	weightPart float64 // of all weight in rotation
	slowStart  float64 // progress from 0 to 1
	state      State
}

// EndpointStats is the state of one endpoint.
type EndpointStats struct {
	ID       string  `json:"id"`
	Address  string  `json:"address"`
	Region   string  `json:"region,omitempty"`
	Zone     string  `json:"zone,omitempty"`
	Weight   uint32  `json:"weight"`      // in the directory
	Part     float64 `json:"weight_part"` // of all weight in rotation, after slow start, failures and zones
	InFlight int64   `json:"in_flight"`
	Picks    uint64  `json:"picks"`
	Refusals uint64  `json:"refusals"`   // attempts rejected by its rate limits with a time to retry
	Share    float64 `json:"share"`      // of all picks
	Latency  float64 `json:"latency_ms"` // to the first response, follows a rise at once and a fall slowly; 0 is unknown
	Failing  float64 `json:"failing"`    // part of the latest attempts that failed
	Refusing float64 `json:"refusing"`   // part of the latest attempts not answered with OK that others would have
	Warm     float64 `json:"slow_start"` // progress of the slow start from 0 to 1; 1 without one
	State    State   `json:"state"`
	Reason   Reason  `json:"reason,omitempty"`           // why it is ejected
	Probe    float64 `json:"probe_in_seconds,omitempty"` // time to the call that probes it
}

// TableStats is the state of the endpoints of one target.
type TableStats struct {
	Panic     bool              `json:"panic"`     // so few are usable that the ejected are used, too
	Ejections map[Reason]uint64 `json:"ejections"` // since the table was created
	Endpoints []EndpointStats   `json:"endpoints"` // by address
}

// Stats returns the endpoints that channels list now.
func (t *Table) Stats() TableStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := TableStats{Ejections: maps.Clone(t.ejections), Endpoints: []EndpointStats{}}
	summaries := map[*Endpoint]summary{}
	for _, u := range t.channels {
		s.Panic = s.Panic || u.panicking
		for _, m := range u.members {
			if other, ok := summaries[m.Endpoint]; !ok || m.summary.state.rank() > other.state.rank() {
				summaries[m.Endpoint] = m.summary
			}
		}
	}
	for e, summary := range summaries {
		s.Endpoints = append(s.Endpoints, e.stats(summary, t.now()))
	}
	setShares(s.Endpoints)
	return s
}

// setShares sets the part that each has of all picks, and sorts them by address.
func setShares(endpoints []EndpointStats) {
	var picks uint64
	for _, e := range endpoints {
		picks += e.Picks
	}
	for i := range endpoints {
		endpoints[i].Share = float64(endpoints[i].Picks) / float64(max(picks, 1))
	}
	slices.SortFunc(endpoints, func(a, b EndpointStats) int { return cmp.Compare(a.Address, b.Address) })
}

func (e *Endpoint) stats(summary summary, now time.Duration) EndpointStats {
	latency, _ := e.latency.read(now)
	s := EndpointStats{
		ID: e.ID, Address: e.Address, Region: summary.zone.region, Zone: summary.zone.name,
		Weight: summary.weight, Part: summary.weightPart, InFlight: e.InFlight(), Picks: e.Picks(), Refusals: e.Refusals.Count(),
		Latency: latency * 1000, Failing: e.failureRate.read(now), Refusing: e.refusing.excess, Warm: summary.slowStart, State: summary.state,
	}
	if e.ejection.ejected && (s.State == Ejected || s.State == Unconnected) {
		s.Reason = e.ejection.reason
		s.Probe = max(e.ejection.until-now, 0).Seconds()
	}
	return s
}

// summarize records what view v does with each endpoint. The caller holds Table.mu.
func (u *channelUse) summarize(v View, s *Settings, now time.Duration) {
	for _, m := range u.members {
		m.summary.state, m.summary.weightPart, m.summary.slowStart = Unconnected, 0, 1
	}
	for _, c := range v.otherZones {
		c.member.summary.state = OtherZone
	}
	rotation := v.inRotation()
	var sum float64
	for _, c := range rotation {
		sum += float64(c.Weight)
	}
	for _, c := range rotation {
		since := now - c.slowStartAt
		summary := &c.member.summary
		summary.state, summary.weightPart = InRotation, float64(c.Weight)/sum
		if c.Endpoint.ejection.ejected && !s.Ejection.Disabled {
			summary.state = Ejected // and used, in a panic
		}
		if window := time.Duration(s.SlowStart.Window); c.slowStarted && since < window && summary.state == InRotation {
			summary.state, summary.slowStart = SlowStarted, float64(since)/float64(window)
		}
	}
	for _, c := range v.ejected {
		c.member.summary.state = Ejected
	}
}

// A table remembers up to maxMethods methods with names of up to maxMethodLength bytes: a
// program that forwards calls may have any.
const (
	maxMethods      = 1024
	maxMethodLength = 1024
)

// methodInfo is what a table remembers of a method.
type methodInfo struct {
	kind attempt.Kind
	slot uint8 // where its answers are counted
}

// methodTable is what a table remembers of methods.
type methodTable struct {
	rpc.Table[string, methodInfo]
	slots atomic.Uint32 // given to methods so far
}

// of looks each method up once, its kind by kindOf.
func (t *methodTable) of(name string, kindOf func(string) attempt.Kind) methodInfo {
	if m, ok := t.Get(name); ok {
		return m
	}
	if t.Full() || len(name) > maxMethodLength {
		return methodInfo{attempt.Unknown, comparedMethods - 1}
	}
	slot := uint8(min(t.slots.Add(1)-1, comparedMethods-1))
	return t.Add(name, methodInfo{kindOf(name), slot})
}
