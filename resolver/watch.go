package resolver

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const (
	recallTime = time.Second     // for the disk, before discovery begins without it
	stopTime   = 5 * time.Second // for a directory to end a watch
)

// watch follows one query and knows what is to be believed of the answers. Its
// readers find out what has become of a grace time when they look.
type watch struct {
	query     catalog.Query
	directory string
	snapshots Snapshots // on disk; may be nil
	saver     *saver    // of them
	log       *slog.Logger
	cancel    context.CancelFunc
	done      chan struct{}

	mu            sync.Mutex
	subscriptions map[*subscription]struct{}
	before        []catalog.Instance // of an earlier watch, until the first answer
	told          time.Time          // when the directory told that one
	recalled      bool               // there was one
	stale         bool               // the directory failed at the end of it
	guard         guard
	panic         panicSettings
	unhealthy     []catalog.Instance // in the last answer
	advice        advice             // what is made of both
	answered      time.Time          // zero: never
	known         bool               // there is something to go on with, if only from before
	hint          string
	failing       time.Time // since when; zero is not
	err           error
	answers       uint64
	failures      uint64
}

// known is what a watch knows at one time.
type known struct {
	advice                      // its lists are shared, never changed
	known    bool               // the list can be believed, empty or not
	own      bool               // it is from answers to this watch
	before   []catalog.Instance // of an earlier one, while there is neither answer nor error
	recalled bool               // something was known before the first answer
	stale    bool               // the directory fails, or failed at the end of the earlier watch
	hint     string             // why an empty list may be empty
	failing  time.Time          // since when the directory fails; zero is not
	err      error              // of the last query
	told     time.Time          // when the directory told it; zero is never
	holding  int                // how many of the list were not in the last answer
	again    time.Duration      // when to look again without being woken; 0 is never
}

func (w *watch) start(watcher catalog.Watcher) {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	go func() {
		defer close(w.done)
		w.recallSoon(ctx)
		watcher.Watch(ctx, w.query, w.report)
	}()
}

// recallSoon waits for the disk for a bounded time. What comes later still counts until
// the directory has answered.
func (w *watch) recallSoon(ctx context.Context) {
	if w.snapshots == nil || len(w.before) > 0 {
		return
	}
	recalled := make(chan struct{})
	go func() {
		defer close(recalled)
		defer func() {
			if p := recover(); p != nil {
				w.log.Error("reading the snapshot on disk has panicked", "panic", p)
			}
		}()
		w.recall()
	}()
	timer := time.NewTimer(recallTime)
	defer timer.Stop()
	select {
	case <-recalled:
	case <-timer.C:
		w.log.Warn("the snapshot on disk is not read in time: discovery begins without it", "time", recallTime)
	case <-ctx.Done():
	}
}

// recall reads what an earlier process has left on disk, if this one knows nothing.
func (w *watch) recall() {
	saved, err := w.snapshots.Load(w.directory, w.query)
	if err != nil {
		w.log.Warn("the snapshot on disk is not used", "error", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known {
		return
	}
	w.before, w.told, w.recalled = saved.Instances, saved.Time, len(saved.Instances) > 0
	w.signal()
}

// signal wakes the readers. The caller holds w.mu.
func (w *watch) signal() {
	for s := range w.subscriptions {
		s.signal()
	}
}

// stop ends the watch and waits for it, unless its directory heeds no context.
func (w *watch) stop() {
	w.cancel()
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-w.done:
	case <-timer.C:
		w.log.Error("the directory does not end its watch: it is left running")
	}
	w.saver.close()
}

func (w *watch) report(snapshot catalog.Snapshot, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.fail(err)
	} else {
		w.answer(snapshot)
	}
	w.signal()
}

// answer believes snapshot as far as the guard lets it. What an earlier watch has
// known is believed only where the first answer is missing or empty: it may be old.
func (w *watch) answer(snapshot catalog.Snapshot) {
	now := time.Now()
	if len(snapshot.Instances) == 0 && len(w.before) > 0 {
		w.guard.list = w.before
	}
	w.before = nil
	w.guard.answer(snapshot.Instances, now)
	w.unhealthy = snapshot.Unhealthy
	w.advice = w.panic.advise(w.guard.list, w.unhealthy)
	w.known, w.answered, w.hint = true, snapshot.Time, snapshot.Hint
	if w.answered.IsZero() {
		w.answered = now
	}
	w.failing, w.err = time.Time{}, nil
	w.answers++
	w.save()
}

func (w *watch) fail(err error) {
	w.guard.fail()
	w.err = err
	w.failures++
	if w.failing.IsZero() {
		w.failing = time.Now()
	}
	if len(w.before) > 0 {
		w.known, w.guard.list, w.before = true, w.before, nil
		w.advice = w.panic.advise(w.guard.list, w.unhealthy)
	}
}

// save keeps what is believed for a start without the directory.
func (w *watch) save() {
	if w.answered.IsZero() || len(w.guard.list) == 0 {
		return
	}
	w.saver.save(catalog.Snapshot{Instances: w.guard.list, Time: w.answered})
}

// look is what is known now.
func (w *watch) look() known {
	w.mu.Lock()
	defer w.mu.Unlock()
	held := w.guard.holding()
	again := w.guard.expire(time.Now())
	if w.guard.holding() != held {
		w.advice = w.panic.advise(w.guard.list, w.unhealthy)
		w.save()
	}
	return known{
		advice: w.advice, known: w.known, own: !w.answered.IsZero(), before: w.before, hint: w.hint,
		recalled: w.recalled, stale: w.err != nil || w.stale && w.answered.IsZero(),
		failing: w.failing, err: w.err, told: w.lastTold(),
		holding: w.guard.holding(), again: again,
	}
}

// lastTold is when the directory told what is believed.
func (w *watch) lastTold() time.Time {
	if w.answered.IsZero() {
		return w.told
	}
	return w.answered
}
