package resolver

import (
	"context"
	"sync"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// watches are the open watches of a builder, one for each directory and query,
// each kept open by its subscriptions.
type watches struct {
	mu   sync.Mutex
	open map[string]*watch
}

// watch follows one query and remembers what it was told last.
type watch struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu            sync.Mutex
	subscriptions map[*subscription]struct{}
	answered      bool
	last          catalog.Snapshot
	err           error // of the last query, nil when it was answered
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
		shared = startWatch(watcher, q)
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
	}
	w.mu.Unlock()
	if last {
		s.cancel()
		<-s.done
	}
}

func startWatch(watcher catalog.Watcher, q catalog.Query) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{cancel: cancel, done: make(chan struct{}), subscriptions: map[*subscription]struct{}{}}
	go func() {
		defer close(w.done)
		watcher.Watch(ctx, q, w.report)
	}()
	return w
}

func (w *watch) report(snapshot catalog.Snapshot, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err = err; err == nil {
		w.answered, w.last = true, snapshot
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
