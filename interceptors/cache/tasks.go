package cache

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
)

// maxTasks caps what a cache does of one kind at once with nobody waiting for it.
const maxTasks = 64

// tasks are what a cache does with nobody waiting for it: refreshes, or writing to the
// store. Closing ends them.
type tasks struct {
	what   string
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	running int
	closed  bool
	done    sync.WaitGroup
}

func newTasks(what string, log *slog.Logger) *tasks {
	t := &tasks{what: what, log: log}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// start runs task for a method, which must end with the context that it is given, unless there are too
// many. That one has the values of ctx and not its end.
func (t *tasks) start(ctx context.Context, method string, task func(context.Context)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.running >= maxTasks {
		return false
	}
	t.running++
	t.done.Go(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(t.ctx, cancel)()
		defer t.end(ctx, method)
		task(ctx)
	})
	return true
}

// end also keeps a panic from ending the process: no interceptor stands around a task.
func (t *tasks) end(ctx context.Context, method string) {
	if p := recover(); p != nil {
		t.log.ErrorContext(ctx, t.what+" has panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
}

// close ends all tasks and waits for them.
func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cancel()
	t.done.Wait()
}
