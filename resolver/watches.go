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
	closed map[watchKey]remembered
}

// watchKey is what channels must have in common to share a watch.
type watchKey struct {
	directory, query string
	grace            time.Duration
	maxRemoval       float64
	snapshots        Snapshots
}

// remembered is what a watch knew that was closed. A channel that comes back from
// idleness while the directory is away goes on with it.
type remembered struct {
	list   []catalog.Instance
	told   time.Time // by the directory
	closed time.Time
}

// rememberFor is how long that outlives the watch, and maxRemembered of how many
// watches it is kept.
const (
	rememberFor   = time.Hour
	maxRemembered = 1024
)

func newWatches() *watches {
	return &watches{seed: maphash.MakeSeed(), open: map[watchKey]*watch{}, closed: map[watchKey]remembered{}}
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
	key := watchKey{watcher.Name(), q.Key(), settings.grace, settings.maxRemoval, settings.snapshots}
	w.mu.Lock()
	defer w.mu.Unlock()
	shared := w.open[key]
	if shared == nil {
		shared = newWatch(watcher, q, settings, w.closed[key])
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
		w.remember(key, s.watch)
	}
	w.mu.Unlock()
	if last {
		s.stop()
	}
}

// remember keeps what a watch knew that is closed.
func (w *watches) remember(key watchKey, closed *watch) {
	for other, r := range w.closed {
		if time.Since(r.closed) > rememberFor || len(w.closed) >= maxRemembered {
			delete(w.closed, other)
		}
	}
	switch now := closed.look(); {
	case len(now.list) > 0:
		w.closed[key] = remembered{now.list, now.told, time.Now()}
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
		snapshots:     settings.snapshots,
		log:           settings.log.With("service", q.Service, "directory", watcher.Name()),
		guard:         guard{grace: settings.grace, maxRemoval: settings.maxRemoval},
	}
	if w.snapshots != nil {
		w.saver = newSaver(func(s catalog.Snapshot) error { return w.snapshots.Save(w.directory, q, s) }, w.log)
	}
	return w
}
