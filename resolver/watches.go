package resolver

import (
	"context"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// watches are the open watches of a builder, one for each directory and query,
// each kept open by its subscriptions.
type watches struct {
	mu     sync.Mutex
	open   map[string]*watch
	closed map[string]remembered
}

// remembered is the last answer of a watch that was closed. A channel that comes
// back from idleness while the directory is away goes on with it.
type remembered struct {
	snapshot catalog.Snapshot
	closed   time.Time
}

// rememberFor is how long the last answer outlives its watch.
const rememberFor = time.Hour

// watch follows one query and remembers what it was told last.
type watch struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu            sync.Mutex
	subscriptions map[*subscription]struct{}
	answered      bool
	last          catalog.Snapshot
	before        catalog.Snapshot // of an earlier watch, for when the first query fails
	err           error            // of the last query, nil when it was answered
}

// subscription is one reader of a watch.
type subscription struct {
	*watch
	wake  chan<- struct{} // is filled, never waited on, when there is something new
	close func()
}

func (w *watches) subscribe(watcher catalog.Watcher, q catalog.Query, wake chan<- struct{}) *subscription {
	key := watcher.Name() + "?" + q.Key()
	w.mu.Lock()
	defer w.mu.Unlock()
	shared := w.open[key]
	if shared == nil {
		shared = startWatch(watcher, q, w.closed[key].snapshot)
		w.open[key] = shared
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
func (w *watches) unsubscribe(key string, s *subscription) {
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
		s.cancel()
		<-s.done
	}
}

// remember keeps the last answer of a watch that is closed.
func (w *watches) remember(key string, closed *watch) {
	for other, r := range w.closed {
		if time.Since(r.closed) > rememberFor {
			delete(w.closed, other)
		}
	}
	if snapshot, answered, _ := closed.latest(); answered {
		w.closed[key] = remembered{snapshot, time.Now()}
	}
}

func startWatch(watcher catalog.Watcher, q catalog.Query, before catalog.Snapshot) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{cancel: cancel, done: make(chan struct{}), subscriptions: map[*subscription]struct{}{}, before: before}
	go func() {
		defer close(w.done)
		watcher.Watch(ctx, q, w.report)
	}()
	return w
}

func (w *watch) report(snapshot catalog.Snapshot, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.err = err; {
	case err == nil:
		w.answered, w.last = true, snapshot
	case !w.answered && len(w.before.Instances) > 0:
		w.answered, w.last = true, w.before
	}
	for s := range w.subscriptions {
		s.signal()
	}
}

func (s *subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // it is awake already and will read the newest
	}
}

// latest is the last answer, if there was one, and the error of the last query.
func (w *watch) latest() (snapshot catalog.Snapshot, answered bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last, w.answered, w.err
}
