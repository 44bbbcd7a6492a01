package consul

import (
	"context"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/time/rate"
)

// entryKinds are the kinds of config entries that Consul compiles chains of.
var entryKinds = [...]string{api.ProxyDefaults, api.ServiceDefaults, api.ServiceRouter, api.ServiceSplitter, api.ServiceResolver}

const (
	// sharedSeats are for the queries of entryKinds, and for the chains that are read after
	// their answers.
	sharedSeats = len(entryKinds) + readSeats
	// blindInterval is the longest time between two reads of a chain while entries may change
	// that cannot be listed. While all are listed, it is that of other watches.
	blindInterval = 10 * time.Second
	// A change that concerns all chains, such as one of proxy-defaults, reads this many at once.
	sharedRate, sharedBurst = 60, 300 // per second
	// maxForgotten bounds the names of entries that were deleted.
	maxForgotten = 1024
)

// entryChanges follows the config entries of an agent by one blocking query for each kind, in
// place of one for each chain, while there are more watches than connections. Then a chain is
// read when an entry of a service that it reaches has changed.
type entryChanges struct {
	directory *Directory
	reads     *rate.Limiter // of chains
	unlisted  episode

	mu      sync.Mutex
	users   int
	stop    func()
	now     uint64 // the number of the latest change
	kinds   map[string]*entryList
	changed chan struct{} // closed at the next answer
}

// entryList is what is known of the entries of one kind.
type entryList struct {
	answered bool
	err      error             // of the last query
	hidden   bool              // some, in the last answer
	since    uint64            // the change from which on all are known; 0 is none
	entries  map[string]listed // by name, in lower case
	changes  map[string]uint64 // the latest one, by name, of deleted entries too
}

func (l *entryList) isComplete() bool { return l.answered && l.err == nil && !l.hidden }

// listed is an entry.
type listed struct {
	index   uint64   // Consul's, of its last write
	leadsTo []string // services
}

func newEntryChanges(d *Directory) *entryChanges {
	return &entryChanges{
		directory: d, reads: rate.NewLimiter(sharedRate, sharedBurst), changed: make(chan struct{}),
		unlisted: episode{
			log:    d.log,
			begins: "config entries cannot be listed: the chains of this process are read every ten seconds",
			ends:   "config entries can be listed again",
		},
	}
}

// join follows the entries until leave, with the first who joins.
func (c *entryChanges) join() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users++; c.users > 1 {
		return
	}
	c.kinds = map[string]*entryList{}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	for _, kind := range entryKinds {
		list := &entryList{}
		c.kinds[kind] = list
		done.Go(func() {
			newEntriesWatch(c.directory, kind).run(ctx, func(read entriesRead, err error) { c.record(list, read, err) })
		})
	}
	c.stop = func() { cancel(); done.Wait() }
}

// leave ends the queries with the last who leaves, and waits.
func (c *entryChanges) leave() {
	c.mu.Lock()
	c.users--
	stop := func() {}
	if c.users == 0 {
		stop = c.stop
	}
	c.mu.Unlock()
	stop()
}

// entriesRead is an answer: the entries of one kind.
type entriesRead struct {
	entries map[string]listed
	hidden  bool // some, by ACLs
}

func newEntriesWatch(d *Directory, kind string) *entryWatch[entriesRead] {
	w := newEntryWatch[entriesRead](d, kind)
	w.slots = held{d}
	w.read = func(ctx context.Context, options *api.QueryOptions) (entriesRead, bool, uint64, error) {
		read := entriesRead{entries: map[string]listed{}}
		decoded := decoding(ctx, func(body io.Reader) error {
			return eachItem(body, func(e *listedEntry) { read.entries[strings.ToLower(e.Name)] = listed{e.ModifyIndex, e.leadsTo()} })
		})
		meta, err := d.api.Raw().Query("/v1/config/"+kind, &anything{}, options.WithContext(decoded))
		if err != nil {
			return entriesRead{}, false, 0, d.explain(err, "service:read")
		}
		read.hidden = meta.ResultsFilteredByACLs
		return read, len(read.entries) == 0, meta.LastIndex, nil
	}
	return w
}

// held are slots of queries that keep their connections.
type held struct{ *Directory }

func (h held) next(ctx context.Context, _ bool) (slot, error) { return h.pool.hold(ctx, h.wait) }
func (held) close()                                           {}

// listedEntry is a config entry, with what leads from its service to others.
type listedEntry struct {
	Name        string
	ModifyIndex uint64
	Routes      []struct{ Destination toService }
	Splits      []toService
	Redirect    toService
	Failover    map[string]struct {
		Service string
		Targets []toService
	}
}

type toService struct{ Service string }

func (e *listedEntry) leadsTo() (services []string) {
	add := func(service string) {
		if service != "" {
			services = append(services, strings.ToLower(service)) // Consul does not mind the case
		}
	}
	for _, r := range e.Routes {
		add(r.Destination.Service)
	}
	for _, s := range e.Splits {
		add(s.Service)
	}
	add(e.Redirect.Service)
	for _, f := range e.Failover {
		add(f.Service)
		for _, t := range f.Targets {
			add(t.Service)
		}
	}
	return services
}

// record follows what an answer has changed.
func (c *entryChanges) record(list *entryList, read entriesRead, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list.answered, list.err, list.hidden = true, err, read.hidden
	if err != nil {
		list.since = 0 // what changes until the next answer cannot be known: indexes may be others then
	} else {
		c.now++
		list.take(read.entries, c.now)
	}
	c.unlisted.set(c.failure())
	close(c.changed)
	c.changed = make(chan struct{})
}

// failure is the error of a list that cannot be read. The caller holds c.mu.
func (c *entryChanges) failure() error {
	for _, kind := range entryKinds {
		if err := c.kinds[kind].err; err != nil {
			return err
		}
	}
	return nil
}

// take makes entries the latest ones, by a change of this number.
func (l *entryList) take(entries map[string]listed, now uint64) {
	if l.since == 0 || len(l.changes) > len(entries)+maxForgotten {
		l.since, l.changes = now, map[string]uint64{}
	}
	for name, e := range entries {
		if old, known := l.entries[name]; !known || old.index != e.index {
			l.changes[name] = now
		}
	}
	for name := range l.entries {
		if _, left := entries[name]; !left {
			l.changes[name] = now
		}
	}
	l.entries = entries
}

// await waits until the chain of service may be another than it was after the change seen, or
// is due. It returns the latest change.
func (c *entryChanges) await(ctx context.Context, over <-chan struct{}, service string, seen uint64) (uint64, error) {
	began := time.Now()
	drawn := 0.5 + rand.Float64()/2 // so that chains are not due all at once
	for {
		c.mu.Lock()
		now, changed, interval := c.now, c.changed, c.interval()
		stale := c.stale(service, seen)
		c.mu.Unlock()
		left := time.Duration(drawn*float64(interval)) - time.Since(began)
		if stale || left <= 0 {
			return now, nil
		}
		timer := time.NewTimer(left)
		select {
		case <-ctx.Done():
			return now, ctx.Err()
		case <-over:
			return now, errTakeTurns
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// latest returns the latest change.
func (c *entryChanges) latest() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// interval is the longest time between two reads of a chain. The caller holds c.mu.
func (c *entryChanges) interval() time.Duration {
	for _, list := range c.kinds {
		if !list.isComplete() {
			return min(blindInterval, c.directory.wait)
		}
	}
	return c.directory.wait
}

// stale reports whether the chain of service may have changed after the change seen. The caller
// holds c.mu.
func (c *entryChanges) stale(service string, seen uint64) bool {
	since, all := uint64(0), true
	reached := c.reached(service)
	reached[api.ProxyConfigGlobal] = true // the name of proxy-defaults
	for _, list := range c.kinds {
		since, all = max(since, list.since), all && list.since > 0
		for name := range reached {
			if list.changes[name] > seen {
				return true
			}
		}
	}
	return all && since > seen
}

// reached are service and those that its entries lead to. They may be more than its chain names:
// a redirect, for example, hides what it is from. The caller holds c.mu.
func (c *entryChanges) reached(service string) map[string]bool {
	service = strings.ToLower(service)
	reached, next := map[string]bool{service: true}, []string{service}
	for len(next) > 0 {
		var further []string
		for _, name := range next {
			for _, list := range c.kinds {
				for _, to := range list.entries[name].leadsTo {
					if !reached[to] {
						reached[to] = true
						further = append(further, to)
					}
				}
			}
		}
		next = further
	}
	return reached
}

// chainSlots are the slots of the queries of one chain.
type chainSlots struct {
	*Directory
	service string
	joined  bool   // changes, instead of blocking queries
	seen    uint64 // the latest change when the last query was sent
}

func (s *chainSlots) next(ctx context.Context, first bool) (slot, error) {
	_, single, shared := s.pool.phases()
	if single.Err() == nil {
		s.close()
		next, err := s.pool.acquire(ctx, s.wait, first)
		if err != nil {
			return slot{}, err
		}
		return next.within(single), nil
	}
	if !s.joined {
		s.changes.join()
		s.joined, s.seen = true, 0
	}
	if first {
		s.seen = s.changes.latest()
		return s.pool.hold(ctx, 0)
	}
	seen, err := s.changes.await(ctx, shared.Done(), s.service, s.seen)
	if err != nil {
		return slot{}, err
	}
	if err := s.changes.reads.Wait(ctx); err != nil {
		return slot{}, err
	}
	s.seen = seen
	return s.pool.hold(ctx, 0)
}

func (s *chainSlots) close() {
	if s.joined {
		s.changes.leave()
	}
	s.joined = false
}
