package cache

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// maxTasks caps what a cache does of one kind at once with nobody waiting for it.
const maxTasks = 64

// closeTimeout is how long [Cache.Close] waits for what heeds no context.
const closeTimeout = 5 * time.Second

// tasks are what a cache does with nobody waiting for it: refreshes, or writing to the
// store. Closing ends them.
type tasks struct {
	what   string
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	running map[*task]struct{}
	closed  bool
	done    sync.WaitGroup
}

// task is one that runs.
type task struct {
	method string
	start  time.Time
}

func newTasks(what string, log *slog.Logger) *tasks {
	t := &tasks{what: what, log: log, running: map[*task]struct{}{}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// start executes run for a method, which must end with the context that it is given, unless there are too
// many. That one has the values of ctx and not its end.
func (t *tasks) start(ctx context.Context, method string, run func(context.Context)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || len(t.running) >= maxTasks {
		return false
	}
	one := &task{method, time.Now()}
	t.running[one] = struct{}{}
	t.done.Go(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(t.ctx, cancel)()
		defer t.end(ctx, one)
		run(ctx)
	})
	return true
}

// end also keeps a panic from ending the process: no interceptor stands around a task.
func (t *tasks) end(ctx context.Context, one *task) {
	if p := recover(); p != nil {
		t.log.ErrorContext(ctx, t.what+" has panicked", "method", one.method, "panic", p, "stack", string(debug.Stack()))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, one)
}

// close ends all tasks and waits for them, for closeTimeout at most: a handler or a store
// may heed no context. What is left running is logged.
func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cancel()
	if within(closeTimeout, t.done.Wait) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for one := range t.running {
		t.log.Error(t.what+" does not end: it is left running", "method", one.method, "since", one.start)
	}
}

// closeSubscription ends what the store calls, in the same time.
func (t *tasks) closeSubscription(unsubscribe func()) {
	ended := within(closeTimeout, func() {
		defer func() {
			if p := recover(); p != nil {
				t.log.Error(t.what+" has panicked", "panic", p, "stack", string(debug.Stack()))
			}
		}()
		unsubscribe()
	})
	if !ended {
		t.log.Error(t.what + " does not end its subscription: it is left running")
	}
}

// within runs f and reports whether it has ended within d. Otherwise it goes on.
func within(d time.Duration, f func()) bool {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f()
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ended:
		return true
	case <-timer.C:
		return false
	}
}
