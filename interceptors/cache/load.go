package cache

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache/cachecontrol"
	"github.com/meshlite-go/meshlite/internal/guard"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// The metadata keys of caches and origins, beside those of RFC 9111.
const (
	// ifNoneMatch is on a request, with the etag of the answer that the caller has.
	ifNoneMatch = "if-none-match"
	// notModified in the header of an empty answer confirms the one with that etag. It is
	// what the status 304 is in HTTP (RFC 9110, 15.4.5).
	notModified = "not-modified"
	// xCache on a request asks for the result of each cache on the way, in the header of
	// the answer, the one nearest to the origin first.
	xCache = "x-cache"
)

var (
	// errNotCached answers only-if-cached (RFC 9111, 5.2.1.7). Its code is not retried.
	errNotCached = status.Error(codes.FailedPrecondition, "cache: there is no fresh answer, and the call says only-if-cached")
	// errPanicked is returned to the calls that waited for one that has panicked.
	errPanicked = status.Error(codes.Internal, "the call that was waited for has panicked")
)

// origin is where answers come from, for one call: the next interceptor of a channel, or
// the handler of a server.
type origin interface {
	// fetch makes the call and delivers its answer to the caller. With an etag, the origin
	// may answer not-modified instead.
	fetch(ctx context.Context, etag string) (answer, error)
	// conflictsWith reports whether e must not be served any more, because the caller has
	// been sent headers that contradict it.
	conflictsWith(e *entry) bool
	// detached is the same call for a background refresh, with its own request and
	// context. It delivers nothing.
	detached(ctx context.Context, request proto.Message) (context.Context, origin)
}

// answer is what an origin has answered.
type answer struct {
	message         proto.Message // nil if it is not a protobuf message
	body            []byte        // the marshaled message, nil if not marshaled yet
	header, trailer metadata.MD
}

// exchange is the state of one call on its way through the cache:
//
//	fastHit   looks up memory, and has the answer of most hits
//	find      goes on from that lookup: serves, refreshes in the background, or
//	coalesce  joins the flight of identical calls, whose leader
//	lead      runs one load for all of them:
//	load.run  reads the store, or else calls the origin, and
//	load.keep stores the answer in memory and store
//
// A hit needs no more than the lookup; origin and optionsKey are set for all others.
type exchange struct {
	rule        *rule
	request     proto.Message
	values      metadataValues
	directives  cachecontrol.Directives
	wantsResult bool   // the call carries x-cache
	destination string // that a chain of routes has chosen, "" without one
	key         string // of the request; an answer that varies by metadata has a longer one
	found       lookup // the latest
	origin      origin
	optionsKey  string // call options by which calls may fail differently
	unusable    string // why it neither is served nor stored
}

// lookup is what memory holds for an exchange: the key of its answer, and the entry there,
// which may have expired, nil if there is none.
type lookup struct {
	key   string
	entry *entry
}

func (x *exchange) lookup() lookup {
	memory := x.rule.cache.memory
	e := memory.get(x.rule, x.key)
	if e == nil || len(e.vary) == 0 {
		return lookup{x.key, e}
	}
	key := x.variantKey(e.vary)
	return lookup{key, memory.get(x.rule, key)}
}

func (x *exchange) freshness(e *entry) freshness {
	return x.rule.freshnessOf(e, x.directives, time.Now())
}

// fastHit looks up the answer, and returns it if it is fresh and that alone decides: the
// call has no directives, and the rule neither refreshes early nor is in shadow mode.
// Otherwise find continues from the lookup.
func (x *exchange) fastHit() *entry {
	x.found = x.lookup()
	if x.rule.shadow || x.rule.earlyRefreshBeta > 0 || x.directives != (cachecontrol.Directives{}) || x.freshness(x.found.entry) != fresh {
		return nil
	}
	return x.found.entry
}

// find answers an exchange after its first lookup: from memory, with the result of a
// concurrent identical call, or by a load; with no-cache always by a load. When that fails by
// an outage, a stale entry is served if policy and caller allow it. Without an entry, the
// origin has delivered the answer to the caller already, or the error is the answer.
func (x *exchange) find(ctx context.Context) (*entry, Result, error) {
	switch {
	case x.rule.shadow:
		return x.compare(ctx)
	case x.directives.Has(cachecontrol.NoCache | cachecontrol.OnlyIfCached): // both: neither memory nor the origin may answer
		return nil, Miss, errNotCached
	case x.directives.Has(cachecontrol.NoCache):
		return x.load(ctx)
	}
	e, result, err := x.coalesce(ctx)
	if err != nil {
		// Looked up again: it may have been invalidated or replaced during the call.
		if stale := x.lookup().entry; x.staleOnError(stale, err) && !x.origin.conflictsWith(stale) {
			return stale, Stale, nil
		}
	}
	return e, result, err
}

// coalesce serves what the lookup has found if it may be served. Otherwise it joins the
// flight of its key: the first exchange there, the leader, loads the answer, and the others
// wait for it. A waiter that cannot use the leader's answer starts again.
func (x *exchange) coalesce(ctx context.Context) (*entry, Result, error) {
	flights := &x.rule.cache.flights
	for {
		switch e := x.found.entry; x.freshness(e) {
		case fresh:
			if x.rule.refreshesEarly(e, time.Now()) {
				x.refresh(ctx)
			}
			return e, Hit, nil
		case staleWhileRevalidate:
			x.refresh(ctx)
			return e, Stale, nil
		case staleAccepted:
			return e, Stale, nil
		}
		if x.directives.Has(cachecontrol.OnlyIfCached) {
			return nil, Miss, errNotCached
		}
		shared, leader := flights.join(x.flightKey())
		switch {
		case shared == nil: // too many flights
			return x.load(ctx)
		case leader:
			// The flight before this one may have ended between the lookup and the join.
			if again := x.lookup(); again.key == x.found.key && x.freshness(again.entry) == fresh {
				flights.finish(x.flightKey(), shared, loaded{entry: again.entry, result: Hit})
				return again.entry, Hit, nil
			}
			return x.lead(ctx, shared).forCaller()
		}
		if err := shared.await(ctx); err != nil {
			return nil, Coalesced, err
		}
		switch {
		case shared.err != nil:
			return nil, Coalesced, shared.err
		case shared.unshared:
			return x.load(ctx)
		case shared.entry != nil && x.canUse(shared.loaded):
			return shared.entry, Coalesced, nil
		}
		x.found = x.lookup()
	}
}

// staleOnError reports whether e may be served past its ttl because the call has failed
// with err (RFC 5861, section 4). Only an outage is such a failure: NOT_FOUND is an answer.
func (x *exchange) staleOnError(e *entry, err error) bool {
	if e == nil || !isOutage(status.Code(err)) || e.failure != nil || x.rule.mustRevalidate || e.lifetime.mustRevalidate ||
		x.directives.Any(cachecontrol.NoCache|cachecontrol.MaxAge|cachecontrol.MinFresh) {
		return false
	}
	window := shorter(x.rule.staleIfError, e.lifetime.staleIfError)
	if limit, ok := x.directives.Seconds(cachecontrol.StaleIfError); ok {
		window = min(window, limit)
	}
	return window > 0 && time.Since(e.bornAt) < x.rule.ttlOf(e)+window
}

// isOutage reports whether the service failed, so that an earlier answer may still be right.
func isOutage(code codes.Code) bool {
	switch code {
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.DataLoss, codes.DeadlineExceeded:
		return true
	}
	return false
}

// compare serves shadow mode: it makes each call, and counts how often its answer differs
// from the one that would have been served. That one stays until its ttl ends, as it would
// without shadow mode.
func (x *exchange) compare(ctx context.Context) (*entry, Result, error) {
	would := x.found.entry
	if x.freshness(would) != fresh {
		x.found.entry = nil // no etag of it is sent, so the answer is a whole one
		return x.load(ctx)
	}
	age := time.Since(would.bornAt)
	got, err := x.origin.fetch(ctx, "")
	changed := false
	switch code := status.Code(err); code {
	case codes.OK:
		body := got.body
		if body == nil && got.message != nil {
			body, _ = deterministic.Marshal(got.message) // without a body it has changed
		}
		changed = would.failure != nil || !bytes.Equal(body, would.body)
	case codes.Unavailable, codes.Unknown, codes.Internal, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted:
		return nil, Miss, err // no evidence that the answer has changed, or has not
	default:
		changed = would.failure.Code() != code
	}
	x.rule.method.shadow.add(age, changed)
	if changed {
		return nil, ShadowStale, err
	}
	return nil, ShadowHit, err
}

// loaded is the result of a load.
type loaded struct {
	entry     *entry   // nil if it may not be stored
	vary      []string // metadata keys of its own that it varies by
	delivered bool     // the caller has the answer from the origin already: find returns no entry
	unshared  bool     // others must not use it: each of them loads alone
	result    Result   // Miss, or Hit if the store had it
	err       error
}

// forCaller returns the result as find returns it to the exchange that made the load.
func (l loaded) forCaller() (*entry, Result, error) {
	if l.err != nil || l.delivered {
		return nil, Miss, l.err
	}
	return l.entry, l.result, nil
}

// load loads the answer for this exchange alone.
func (x *exchange) load(ctx context.Context) (*entry, Result, error) {
	return x.newLoad().run(ctx).forCaller()
}

// load is one attempt to get the answer of an exchange from the store, or else from the
// origin. What it stores is invalid if one of its subjects is invalidated after it began.
type load struct {
	*exchange
	number     uint64 // in the order in which loads of the cache begin
	startedAt  time.Time
	generation uint64   // the current one when the load began; see generations
	slots      []uint32 // of the generations of the request's subjects
	subjects   []string // all that the answer belongs to; only with a store
	ticket     string   // by which the answer may be saved in the store, "" if it may not
}

func (x *exchange) newLoad() *load {
	r := x.rule
	l := &load{
		exchange: x, number: r.cache.loads.Add(1), startedAt: time.Now(),
		generation: r.cache.memory.generations.current.Load(),
	}
	own := requestSubjects(r, x.request)
	for _, subject := range own {
		l.slots = append(l.slots, r.cache.memory.generations.slot(subject))
	}
	if r.cache.options.store != nil {
		l.subjects = append(append(l.subjects, r.subjects...), own...)
	}
	return l
}

// run gets the answer from the store or the origin, and stores it in memory and, if it came
// from the origin, in the store, where policy and answer allow.
func (l *load) run(ctx context.Context) loaded {
	if l.rule.cache.options.store != nil && l.usesStore() {
		if e := l.fromStore(ctx); e != nil {
			l.rule.cache.memory.keep(l.rule, e)
			return loaded{entry: e, result: Hit}
		}
	}
	old, etag := l.found.entry, ""
	if old != nil && old.failure == nil && len(l.values.get(ifNoneMatch)) == 0 {
		etag = old.etag
	}
	got, err := l.origin.fetch(ctx, etag)
	if err == nil && etag != "" && len(got.header[notModified]) > 0 {
		if matches(got.header[notModified], etag) && !l.isElsewhere(ctx) {
			return l.revalidated(got.header)
		}
		ctx = attempt.Again(ctx)
		got, err = l.origin.fetch(ctx, "") // the origin confirms an answer that we do not have
	}
	if l.isElsewhere(ctx) {
		return loaded{delivered: true, unshared: true, result: Miss, err: err}
	}
	if err != nil {
		l.keepFailure(ctx, err, got)
		return loaded{delivered: true, result: Miss, err: err}
	}
	vary := l.rule.varyOf(got.header)
	e := l.entryOf(l.variantKey(vary), got)
	l.keep(e, vary)
	return loaded{entry: e, vary: vary, delivered: true, result: Miss}
}

// isElsewhere reports whether another destination than that of the key has answered, as after a
// retry in another arm of a route. The key does not identify such an answer.
func (l *load) isElsewhere(ctx context.Context) bool {
	return destinationOf(ctx, l.values.side) != l.destination
}

// revalidated stores the expired entry anew, and returns it for the caller: what the origin
// has sent was empty.
func (l *load) revalidated(header metadata.MD) loaded {
	e, may := l.renewed(header)
	vary := l.rule.varyOf(e.header)
	e.key = l.variantKey(vary)
	kept := e
	if !may {
		kept = nil
	}
	l.keep(kept, vary)
	return loaded{entry: e, vary: vary, unshared: !may, result: Miss}
}

// keep stores e in memory, with the vary marker that leads to it if it varies, and otherwise
// in the store, too. If e is nil, the answer may not be stored, and the expired one is dropped.
func (l *load) keep(e *entry, vary []string) {
	memory := l.rule.cache.memory
	if e == nil {
		memory.drop(l.found.entry)
		return
	}
	if e.key != l.found.key && len(vary) > 0 { // there is no marker, or one with other keys
		memory.keep(l.rule, l.varyMarker(vary))
	}
	memory.keep(l.rule, e)
	if l.ticket != "" && len(vary) == 0 {
		l.save(e)
	}
}

// keepFailure stores a failure that the policy caches, and drops the expired entry if the
// failure says that it is gone. It changes nothing if that entry may be served in place of the
// failure, or if the caller's context has ended, which may have caused the failure.
func (l *load) keepFailure(ctx context.Context, err error, got answer) {
	old, memory := l.found.entry, l.rule.cache.memory
	if ctx.Err() != nil || l.staleOnError(old, err) {
		return
	}
	if e := l.negativeEntryOf(err, got); e != nil {
		memory.keep(l.rule, e)
		if l.ticket != "" && e.key == l.key {
			l.save(e)
		}
		return
	}
	switch status.Code(err) {
	case codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented:
		memory.drop(old)
	case codes.PermissionDenied, codes.Unauthenticated:
		if !l.rule.public { // another caller may be allowed a public one
			memory.drop(old)
		}
	}
}

// maxFlights caps the flights at once. A call beyond it loads alone.
const maxFlights = 10_000

// flights are the loads in progress whose result others may wait for, by key.
type flights struct {
	mu   sync.Mutex
	open map[string]*flight
}

// flight is one load for all concurrent identical calls. Its leader makes it with its own
// context, deadline and options.
type flight struct {
	done chan struct{} // closed when the outcome is published
	// loaded is the outcome: an entry or an error for all that wait. If it is unshared, each
	// of them loads alone. If it is empty, they start again, and one is the next leader.
	loaded
}

// flightKey is equal for identical calls: those with the same answer and call options.
func (x *exchange) flightKey() string { return x.found.key + x.optionsKey }

// join returns the flight for key, and whether the caller is its leader, who must finish
// it. It returns nil when there are too many.
func (f *flights) join(key string) (shared *flight, leader bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if shared := f.open[key]; shared != nil {
		return shared, false
	}
	if len(f.open) >= maxFlights {
		return nil, true
	}
	if f.open == nil {
		f.open = map[string]*flight{}
	}
	shared = &flight{done: make(chan struct{})}
	f.open[key] = shared
	return shared, true
}

// finish ends a flight and publishes its outcome. Only the first outcome counts.
func (f *flights) finish(key string, shared *flight, outcome loaded) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[key] != shared {
		return
	}
	delete(f.open, key)
	shared.loaded = outcome
	close(shared.done)
}

// await waits for the outcome, as long as ctx lasts.
func (s *flight) await(ctx context.Context) error {
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// lead loads the answer for all that wait, and publishes what may be shared. When the
// leader's own context ends, the flight ends at once without an outcome, even if a handler
// ignores the context and runs on. After a panic, which continues, it ends with an error.
func (x *exchange) lead(ctx context.Context, shared *flight) loaded {
	key, flights := x.flightKey(), &x.rule.cache.flights
	outcome := loaded{err: errPanicked}
	defer func() { flights.finish(key, shared, outcome) }()
	defer context.AfterFunc(ctx, func() { flights.finish(key, shared, loaded{}) })()
	got := x.newLoad().run(ctx)
	outcome = x.shareable(ctx, got)
	return got
}

// shareable returns what a leader publishes of the load that it made. It is empty if the load
// failed because the leader's own context has ended, so that another one leads, and unshared
// if the result may concern the leader alone.
func (x *exchange) shareable(ctx context.Context, got loaded) loaded {
	if got.err != nil && ctx.Err() != nil {
		return loaded{}
	}
	switch status.Code(got.err) {
	case codes.OK:
		got.unshared = got.unshared || got.entry == nil
	case codes.Canceled, codes.DeadlineExceeded: // of an attempt, or of a call that the handler made
		return loaded{unshared: true}
	case codes.Unauthenticated, codes.PermissionDenied, codes.ResourceExhausted:
		// Another caller may be allowed to. Those that wait for a private answer are the
		// same caller.
		if x.rule.public {
			return loaded{unshared: true}
		}
	}
	return got
}

// canUse reports whether an entry that another exchange has loaded answers this one, too: it
// may vary by metadata, or have been invalidated since. One from memory or the store may also
// be too old for this caller's directives; one from the origin cannot be newer.
func (x *exchange) canUse(got loaded) bool {
	if x.variantKey(got.vary) != x.found.key || !x.rule.cache.memory.generations.valid(x.rule, got.entry) {
		return false
	}
	return got.result == Miss || x.freshness(got.entry) == fresh
}

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
