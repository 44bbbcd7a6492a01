package resolver

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// watches are the open watches of a builder, one for each question and way to
// believe the answers, each kept open by its subscriptions.
type watches struct {
	seed maphash.Seed // which instances of many this process connects to

	mu     sync.Mutex
	open   map[watchKey]*watch
	closed map[question]remembered
}

// question is what is asked of whom. Its answer is the same however it is believed.
type question struct{ directory, query string }

// watchKey is what channels must have in common to share a watch.
type watchKey struct {
	question
	grace      time.Duration
	maxRemoval float64
	panic      panicSettings
	snapshots  Snapshots
}

// remembered is what another watch knew of the same question, be it closed or not. A
// channel that comes back from idleness, or is made again, goes on with it until the
// directory answers.
type remembered struct {
	list    []catalog.Instance
	told    time.Time // by the directory
	failing bool      // the directory failed at the end
	closed  time.Time
}

// rememberFor is how long that outlives the watch, and maxRemembered of how many
// watches it is kept.
const (
	rememberFor   = time.Hour
	maxRemembered = 1024
)

func newWatches() *watches {
	return &watches{seed: maphash.MakeSeed(), open: map[watchKey]*watch{}, closed: map[question]remembered{}}
}

// subscription is one reader of a watch.
type subscription struct {
	*watch
	wake  chan<- struct{} // is filled, never waited on, when there is something new
	close func()
}

func (s *subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // it is awake already and will read the newest
	}
}

func (w *watches) subscribe(watcher catalog.Watcher, q catalog.Query, settings settings, wake chan<- struct{}) *subscription {
	key := watchKey{question{watcher.Name(), q.Key()}, settings.grace, settings.maxRemoval, settings.panic, settings.snapshots}
	w.mu.Lock()
	defer w.mu.Unlock()
	shared := w.open[key]
	if shared == nil {
		shared = newWatch(watcher, q, settings, w.recall(key.question))
		w.open[key] = shared
		shared.start(watcher)
	}
	s := &subscription{watch: shared, wake: wake}
	s.close = func() { w.unsubscribe(key, s) }
	shared.mu.Lock()
	shared.subscriptions[s] = struct{}{}
	shared.mu.Unlock()
	s.signal() // there may be an answer already
	return s
}

// unsubscribe ends a watch with its last reader and waits for it.
func (w *watches) unsubscribe(key watchKey, s *subscription) {
	w.mu.Lock()
	s.mu.Lock()
	delete(s.subscriptions, s)
	last := len(s.subscriptions) == 0
	s.mu.Unlock()
	if last {
		delete(w.open, key)
		w.remember(key.question, s.watch)
	}
	w.mu.Unlock()
	if last {
		s.stop()
	}
}

// recall is what is known of q by a watch with other settings, or was by one that is
// closed. The caller holds w.mu.
func (w *watches) recall(q question) remembered {
	for key, other := range w.open {
		if key.question != q {
			continue
		}
		if now := other.look(); len(now.callable()) > 0 {
			return remembered{list: now.callable(), told: now.told, failing: now.err != nil}
		}
	}
	return w.closed[q]
}

// remember keeps what a watch knew that is closed.
func (w *watches) remember(key question, closed *watch) {
	for other, r := range w.closed {
		if time.Since(r.closed) > rememberFor || len(w.closed) >= maxRemembered {
			delete(w.closed, other)
		}
	}
	switch now := closed.look(); {
	case len(now.callable()) > 0:
		w.closed[key] = remembered{now.callable(), now.told, now.err != nil, time.Now()}
	case now.known:
		delete(w.closed, key)
	}
}

// newWatch knows at first what an earlier one of this process knew.
func newWatch(watcher catalog.Watcher, q catalog.Query, settings settings, before remembered) *watch {
	w := &watch{
		query: q, directory: watcher.Name(),
		done:          make(chan struct{}),
		subscriptions: map[*subscription]struct{}{},
		before:        before.list,
		told:          before.told,
		recalled:      len(before.list) > 0,
		stale:         before.failing,
		snapshots:     settings.snapshots,
		log:           settings.log.With("service", q.Service, "directory", watcher.Name()),
		panic:         settings.panic,
		guard:         guard{grace: settings.grace, maxRemoval: settings.maxRemoval},
	}
	if w.snapshots != nil {
		w.saver = newSaver(func(s catalog.Snapshot) error { return w.snapshots.Save(w.directory, q, s) }, w.log)
	}
	return w
}
