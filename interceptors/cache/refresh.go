package cache

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/guard"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

const (
	// defaultRefreshTimeout bounds a refresh where the policy has no timeout.
	defaultRefreshTimeout = 10 * time.Second
	// refreshPause is how long a method is not refreshed after an outage, so that refreshes
	// do not follow each other as fast as they fail.
	refreshPause = time.Second
)

// refreshesEarly draws whether a fresh answer is refreshed now: the more likely the nearer
// its expiry, and the longer its load took. So of many callers, on many machines, one
// refreshes before all must (XFetch; Vattani, Chierichetti, Lowenstein: Optimal
// Probabilistic Cache Stampede Prevention, VLDB 2015).
func (r *rule) refreshesEarly(e *entry, now time.Time) bool {
	if r.earlyRefreshBeta == 0 || e.failure != nil {
		return false
	}
	left := r.ttlOf(e) - now.Sub(e.bornAt)
	return float64(e.loadTime)*r.earlyRefreshBeta*-math.Log(1-rand.Float64()) >= float64(left)
}

// refresh loads the answer anew in the background, as the leader of its flight. It does
// nothing while there is such a flight, during a pause, or while too many refreshes run.
func (x *exchange) refresh(ctx context.Context) {
	r := x.rule
	if time.Now().UnixNano() < r.method.pausedUntil.Load() {
		return
	}
	shared, leader := r.cache.flights.join(x.flightKey())
	if !leader || shared == nil {
		return
	}
	// A clone, since the caller may change its request as soon as it has its answer. Without
	// the directives, which are for the caller's own call.
	own := &exchange{rule: r, request: proto.Clone(x.request), values: x.values, destination: x.destination, key: x.key, found: x.found, optionsKey: x.optionsKey}
	ctx, own.origin = x.origin.detached(interceptors.WithoutOutcome(ctx), own.request)
	if !r.cache.refreshes.start(ctx, r.meta.FullMethod, func(ctx context.Context) { own.refreshNow(ctx, shared) }) {
		r.cache.flights.finish(x.flightKey(), shared, loaded{}) // those that have joined start again, and one leads
	}
}

func (x *exchange) refreshNow(ctx context.Context, shared *flight) {
	ctx, cancel := context.WithTimeout(ctx, x.rule.refreshTimeout)
	defer cancel()
	err := rpc.ErrPanic
	defer func() {
		method := x.rule.method
		method.results.refreshed(err != nil)
		if code := status.Code(err); isOutage(code) || code == codes.ResourceExhausted {
			method.pausedUntil.Store(time.Now().Add(refreshPause).UnixNano())
		}
	}()
	err = x.lead(ctx, shared).err
}

// maxTasks caps the background tasks of one kind at once.
const maxTasks = 64

// closeTimeout is how long [Cache.Close] waits for tasks that ignore their context.
const closeTimeout = 5 * time.Second

// tasks are the background tasks of one kind: refreshes, or saves to the store. Closing
// ends them.
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

// start runs a task for a method, and returns false if there are too many. The context of
// the task has the values of ctx and ends with close.
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

// end also recovers a panic: no recovery interceptor runs in a task.
func (t *tasks) end(ctx context.Context, one *task) {
	if p := recover(); p != nil {
		t.log.ErrorContext(ctx, t.what+" has panicked", "method", one.method, "panic", p, "stack", string(debug.Stack()))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, one)
}

// close cancels all tasks and waits for them, for closeTimeout at most. What is left
// running is logged.
func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cancel()
	if guard.Within(closeTimeout, t.done.Wait, func(error) {}) == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for one := range t.running {
		t.log.Error(t.what+" does not end: it is left running", "method", one.method, "since", one.start)
	}
}

// closeSubscription ends the store's subscription, in the same time.
func (t *tasks) closeSubscription(unsubscribe func()) {
	logPanic := func(err error) {
		if p, ok := err.(*guard.Panic); ok {
			t.log.Error(t.what+" has panicked", "panic", p.Value, "stack", p.Stack)
		}
	}
	err := guard.Within(closeTimeout, unsubscribe, logPanic)
	logPanic(err)
	if errors.Is(err, guard.ErrLeft) {
		t.log.Error(t.what + " does not end its subscription: it is left running")
	}
}
