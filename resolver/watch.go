package resolver

import (
	"cmp"
	"context"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/route"
)

const (
	snapshotTimeout = time.Second     // for reading from disk before the watch starts
	stopTimeout     = 5 * time.Second // for a directory to end a watch
)

// sharedWatch follows one query for all its subscriptions and decides what is believed of
// the answers. It has no timer: subscriptions call view when a grace time ends.
type sharedWatch struct {
	query     catalog.Query
	directory string                   // its name
	snapshots Snapshots                // may be nil
	saver     *saver[catalog.Snapshot] // nil without snapshots
	log       *slog.Logger
	following *following

	mu            sync.Mutex
	subscriptions map[*subscription]struct{}
	earlier       earlierList
	hadEarlier    bool // an earlier list was there, whatever became of it
	guard         guard
	panic         panicSettings
	unhealthy     []catalog.Instance // in the last answer
	callable      callable           // of the guard's list and unhealthy
	believed      bool               // the guard's list can be used, empty or not
	answeredAt    time.Time          // zero: no answer yet
	hint          string             // why the last answer may be empty
	failingSince  time.Time          // zero: the last query did not fail
	err           error              // of the last query
	answers       uint64
	failures      uint64
}

// earlierList is what was believed of a query before a watch of it: by another watch, or by
// an earlier process that left a snapshot. It serves until the first answer.
type earlierList struct {
	list       []catalog.Instance
	answeredAt time.Time // by the directory
	failing    bool      // the directory failed at the end
}

// view is what a sharedWatch believes at one time. Its lists are shared and never changed.
type view struct {
	callable
	believed     bool               // list can be used, empty or not
	answered     bool               // by the directory, to this watch
	earlier      []catalog.Instance // while there is neither an answer nor an error
	hadEarlier   bool
	suspect      bool          // the directory fails, or failed when the earlier list was last used
	hint         string        // why an empty list may be empty
	failingSince time.Time     // zero: it does not fail
	err          error         // of the last query
	answeredAt   time.Time     // when the directory answered what is believed; zero is never
	held         int           // how many of list are missing from the last answer
	excluded     int           // unhealthy instances of the last answer that are not in list
	again        time.Duration // until a grace time ends; 0 is never
}

// newWatch believes at first what earlier holds.
func newWatch(watcher catalog.Watcher, q catalog.Query, settings settings, earlier earlierList) *sharedWatch {
	w := &sharedWatch{
		query: q, directory: watcher.Name(),
		subscriptions: map[*subscription]struct{}{},
		earlier:       earlier,
		hadEarlier:    len(earlier.list) > 0,
		snapshots:     settings.snapshots,
		log:           settings.log.With("service", q.Service, "directory", watcher.Name()),
		panic:         settings.panic,
		guard:         guard{grace: settings.grace, maxRemoval: settings.maxRemoval},
	}
	if w.snapshots != nil {
		w.saver = newSaver(func(s catalog.Snapshot) error { return w.snapshots.Save(w.directory, q, s) }, sameInstances, w.log)
	}
	return w
}

func (w *sharedWatch) start(watcher catalog.Watcher) {
	w.following = follow(w.log, func(ctx context.Context) {
		if w.snapshots != nil && len(w.earlier.list) == 0 {
			loadWithin(ctx, w.log, w.load) // what is read later is still used if there is no answer by then
		}
		watcher.Watch(ctx, w.query, w.report)
	})
}

// following is a watch that a directory runs in a goroutine.
type following struct {
	log    *slog.Logger
	cancel context.CancelFunc
	done   chan struct{}
}

func follow(log *slog.Logger, watch func(context.Context)) *following {
	ctx, cancel := context.WithCancel(context.Background())
	f := &following{log, cancel, make(chan struct{})}
	go func() {
		defer close(f.done)
		watch(ctx)
	}()
	return f
}

// stop ends the watch and waits, but not for a directory that ignores its context.
func (f *following) stop() {
	f.cancel()
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-f.done:
	case <-timer.C:
		f.log.Error("the directory does not end its watch: its goroutine is left running", "timeout", stopTimeout)
	}
}

// load uses the snapshot as the earlier list, unless there is an answer or an error already.
func (w *sharedWatch) load() {
	saved, err := w.snapshots.Load(w.directory, w.query)
	if err != nil {
		w.log.Warn("the snapshot is not used", "error", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.believed {
		return
	}
	w.earlier = earlierList{list: saved.Instances, answeredAt: saved.Time, failing: w.earlier.failing}
	w.hadEarlier = len(saved.Instances) > 0
	w.signal()
}

// signal wakes the subscriptions. The caller holds w.mu.
func (w *sharedWatch) signal() {
	for s := range w.subscriptions {
		s.signal()
	}
}

// stop ends the watch, and then the saving of its answers.
func (w *sharedWatch) stop() {
	w.following.stop()
	w.saver.close()
}

// report is called by the directory.
func (w *sharedWatch) report(snapshot catalog.Snapshot, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.fail(err)
	} else {
		w.accept(snapshot)
	}
	w.signal()
}

// accept believes an answer as far as the guard allows. An earlier list may be old, so
// only an empty answer makes it stay, held.
func (w *sharedWatch) accept(snapshot catalog.Snapshot) {
	now := time.Now()
	if len(snapshot.Instances) == 0 && len(w.earlier.list) > 0 {
		w.guard.list = w.earlier.list
	}
	w.earlier.list = nil
	w.guard.accept(snapshot.Instances, now)
	w.unhealthy = snapshot.Unhealthy
	w.callable = w.panic.choose(w.guard.list, w.unhealthy)
	w.believed, w.answeredAt, w.hint = true, snapshot.Time, snapshot.Hint
	if w.answeredAt.IsZero() {
		w.answeredAt = now
	}
	w.failingSince, w.err = time.Time{}, nil
	w.answers++
	w.save()
}

// fail records an error. It turns an earlier list into the believed one.
func (w *sharedWatch) fail(err error) {
	w.guard.fail()
	w.err = err
	w.failures++
	if w.failingSince.IsZero() {
		w.failingSince = time.Now()
	}
	if len(w.earlier.list) > 0 {
		w.believed, w.guard.list, w.earlier.list = true, w.earlier.list, nil
		w.callable = w.panic.choose(w.guard.list, w.unhealthy)
	}
}

// save stores what is believed for the start of a later process.
func (w *sharedWatch) save() {
	if w.answeredAt.IsZero() || len(w.guard.list) == 0 {
		return
	}
	w.saver.save(catalog.Snapshot{Instances: w.guard.list, Time: w.answeredAt})
}

// view returns what is believed now.
func (w *sharedWatch) view() view {
	w.mu.Lock()
	defer w.mu.Unlock()
	held := w.guard.held()
	again := w.guard.expire(time.Now())
	if w.guard.held() != held {
		w.callable = w.panic.choose(w.guard.list, w.unhealthy)
		w.save()
	}
	v := view{
		callable: w.callable, believed: w.believed, answered: !w.answeredAt.IsZero(),
		earlier: w.earlier.list, hadEarlier: w.hadEarlier, hint: w.hint,
		failingSince: w.failingSince, err: w.err, answeredAt: w.answeredAt,
		held: w.guard.held(), excluded: len(w.unhealthy) - w.callable.panicking, again: again,
	}
	v.suspect = w.err != nil || w.earlier.failing && !v.answered
	if !v.answered {
		v.answeredAt = w.earlier.answeredAt
	}
	return v
}

// subscription is one reader of a sharedWatch.
type subscription struct {
	*sharedWatch
	wake  chan<- struct{} // filled, without waiting, when there is something new
	close func()
}

func (s *subscription) signal() { signal(s.wake) }

// watchRegistry holds the watches of a builder. A watch is open while it has subscriptions.
type watchRegistry struct {
	seed maphash.Seed // of the subsets of this process

	mu     sync.Mutex
	open   map[watchKey]*sharedWatch
	closed map[queryKey]closedWatch
}

// queryKey identifies an answer, whatever is believed of it.
type queryKey struct{ directory, query string }

// watchKey is what channels must have in common to share a watch.
type watchKey struct {
	queryKey
	grace      time.Duration
	maxRemoval float64
	panic      panicSettings
	snapshots  Snapshots
}

// closedWatch is the last list of a watch that was closed. A channel that leaves idle mode, or
// is made anew, starts with it.
type closedWatch struct {
	earlierList
	closedAt time.Time
}

// A list is kept for an hour after its watch was closed, and those of 1024 watches at most.
const (
	closedTTL        = time.Hour
	maxClosedWatches = 1024
)

func newWatchRegistry() *watchRegistry {
	return &watchRegistry{seed: maphash.MakeSeed(), open: map[watchKey]*sharedWatch{}, closed: map[queryKey]closedWatch{}}
}

func (r *watchRegistry) subscribe(watcher catalog.Watcher, q catalog.Query, settings settings, wake chan<- struct{}) *subscription {
	key := watchKey{queryKey{watcher.Name(), q.Key()}, settings.grace, settings.maxRemoval, settings.panic, settings.snapshots}
	r.mu.Lock()
	defer r.mu.Unlock()
	shared := r.open[key]
	if shared == nil {
		shared = newWatch(watcher, q, settings, r.earlier(key.queryKey))
		r.open[key] = shared
		shared.start(watcher)
	}
	s := &subscription{sharedWatch: shared, wake: wake}
	s.close = func() { r.unsubscribe(key, s) }
	shared.mu.Lock()
	shared.subscriptions[s] = struct{}{}
	shared.mu.Unlock()
	s.signal() // there may be an answer already
	return s
}

// unsubscribe ends the watch with its last subscription, and waits for it.
func (r *watchRegistry) unsubscribe(key watchKey, s *subscription) {
	r.mu.Lock()
	s.mu.Lock()
	delete(s.subscriptions, s)
	last := len(s.subscriptions) == 0
	s.mu.Unlock()
	if last {
		delete(r.open, key)
		r.keep(key.queryKey, s.sharedWatch)
	}
	r.mu.Unlock()
	if last {
		s.stop()
	}
}

// earlier returns the list of an open watch with other settings, else of a closed one. The
// caller holds r.mu.
func (r *watchRegistry) earlier(q queryKey) earlierList {
	for key, other := range r.open {
		if key.queryKey != q {
			continue
		}
		if v := other.view(); len(v.all()) > 0 {
			return earlierList{list: v.all(), answeredAt: v.answeredAt, failing: v.err != nil}
		}
	}
	return r.closed[q].earlierList
}

// keep stores the last list of a watch that is being closed. The caller holds r.mu.
func (r *watchRegistry) keep(key queryKey, closing *sharedWatch) {
	for other, c := range r.closed {
		if time.Since(c.closedAt) > closedTTL || len(r.closed) >= maxClosedWatches {
			delete(r.closed, other)
		}
	}
	switch v := closing.view(); {
	case len(v.all()) > 0:
		r.closed[key] = closedWatch{earlierList{v.all(), v.answeredAt, v.err != nil}, time.Now()}
	case v.believed:
		delete(r.closed, key) // an empty list is believed
	}
}

// Follow calls changed with the instances that answer q, and again whenever they may have
// changed, one call at a time. What is believed of the answers is as for channels, with
// which it shares the watch. An earlier list serves until the first answer; without one nothing
// is reported before. The list must not be changed. stop ends it and waits; changed must
// not call it.
func (b *Builder) Follow(q catalog.Query, changed func([]catalog.Instance)) (stop func()) {
	wake, done := make(chan struct{}, 1), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	s := b.watches.subscribe(b.directory, q, b.settings, wake)
	go func() {
		defer close(done)
		for {
			again := s.publish(changed)
			timer := time.NewTimer(again)
			if again == 0 {
				timer.Stop()
			}
			select {
			case <-ctx.Done():
			case <-wake:
			case <-timer.C:
			}
			timer.Stop()
			if ctx.Err() != nil {
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		cancel()
		<-done
		s.close()
	})
}

// FollowRoutes is [Builder.Follow] with the discovery chain of the service, for requests of HTTP:
// changed is called with where they go, and again whenever that may have changed. A target of a
// chain is discovered as the service is, in its datacenter and by its filter; a new chain is
// reported once each of its targets has been answered for. A first chain that is refused is
// reported as failed. Without a chain it is what Follow reports.
func (b *Builder) FollowRoutes(q catalog.Query, changed func(routes.Snapshot)) (stop func()) {
	watcher, ok := b.directory.(route.Watcher)
	if !ok {
		return b.Follow(q, func(list []catalog.Instance) {
			changed(routes.Snapshot{Targets: []routes.Target{{Instances: list, Known: len(list)}}})
		})
	}
	f := &routeFollower{builder: b, query: q, changed: changed, wake: make(chan struct{}, 1)}
	f.planner = planner[*followed]{patience: b.startTimeout, parts: map[string]*followed{}, open: f.openPart}
	var closeChain func()
	f.chain, closeChain = b.chains.follow(watcher, chainKey{directory: b.directory.Name(), service: q.Service, datacenter: q.Datacenter, http: true}, b.log, f.wake)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.runUpdates(ctx, f.wake, f.update)
	}()
	return sync.OnceFunc(func() {
		cancel()
		<-done
		closeChain()
		f.closeParts()
	})
}

// publish calls changed with the current list. It returns when to do so again without being
// woken; 0 is never.
func (s *subscription) publish(changed func([]catalog.Instance)) (again time.Duration) {
	v := s.view()
	switch {
	case v.believed:
		changed(v.all())
	case len(v.earlier) > 0:
		changed(v.earlier)
	}
	return v.again
}

// Stats is the state of one watch of a builder, and its counters since it was opened.
type Stats struct {
	Directory string        `json:"directory"` // its name
	Query     catalog.Query `json:"query"`
	Channels  int           `json:"channels"` // that share the watch

	// AnsweredAt is when the directory gave the list that is believed; zero is never. An
	// unchanged answer at the end of a blocking query counts. For a snapshot, or the list
	// of a closed watch, it may be long ago.
	AnsweredAt time.Time `json:"answered_at,omitzero"`
	Error      string    `json:"error,omitempty"` // of the last query; empty is none
	Answers    uint64    `json:"answers"`
	Failures   uint64    `json:"failures"`

	// Passing and Warning count the instances that calls may go to, of which each channel
	// takes a subset; Held those among them that are missing from the last answer and
	// wait for the grace time.
	Passing int `json:"passing"`
	Warning int `json:"warning"`
	Held    int `json:"held"`
	// Critical and Maintenance count those that the health checks keep out. Panicking reports
	// that too few are healthy, so that the others are called too, unless another
	// datacenter has healthy ones.
	Critical    int  `json:"critical"`
	Maintenance int  `json:"maintenance"`
	Panicking   bool `json:"panicking"`
}

// Stats returns the stats of all open watches, sorted by directory and service.
func (b *Builder) Stats() []Stats {
	b.watches.mu.Lock()
	open := make([]*sharedWatch, 0, len(b.watches.open))
	for _, w := range b.watches.open {
		open = append(open, w)
	}
	b.watches.mu.Unlock()
	all := make([]Stats, len(open))
	for i, w := range open {
		all[i] = w.stats()
	}
	slices.SortFunc(all, func(a, b Stats) int {
		return cmp.Or(cmp.Compare(a.Directory, b.Directory), cmp.Compare(a.Query.Service, b.Query.Service), cmp.Compare(a.Query.Key(), b.Query.Key()))
	})
	return all
}

func (w *sharedWatch) stats() Stats {
	v := w.view()
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Stats{
		Directory: w.directory, Query: w.query, Channels: len(w.subscriptions),
		AnsweredAt: v.answeredAt, Answers: w.answers, Failures: w.failures,
		Held: v.held, Panicking: v.panicking > 0 || len(v.lastResort) > 0,
	}
	if v.err != nil {
		s.Error = v.err.Error()
	}
	list := v.list
	if !v.believed {
		list = v.earlier
	}
	s.Passing, s.Warning = count(list, catalog.Passing), count(list, catalog.Warning)
	s.Critical, s.Maintenance = count(w.unhealthy, catalog.Critical), count(w.unhealthy, catalog.Maintenance)
	return s
}

func count(list []catalog.Instance, status catalog.Status) (n int) {
	for i := range list {
		if list[i].Status == status {
			n++
		}
	}
	return n
}
