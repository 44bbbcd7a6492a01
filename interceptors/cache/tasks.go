package cache

import (
	"context"
	"sync"
)

// maxTasks caps what a cache does at once with nobody waiting for it: refreshes, and
// writing to the store.
const maxTasks = 64

// tasks are what a cache does with nobody waiting for it. Closing ends them.
type tasks struct {
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	running int
	closed  bool
	done    sync.WaitGroup
}

func newTasks() *tasks {
	t := &tasks{}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// start runs task, which must end with the context that it is given, unless there are too
// many. That one has the values of ctx and not its end.
func (t *tasks) start(ctx context.Context, task func(context.Context)) bool {
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
		defer t.end()
		task(ctx)
	})
	return true
}

func (t *tasks) end() {
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
