package authz

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/guard"
	"github.com/meshlite-go/meshlite/internal/lines"
)

// Watcher reports the intentions of a destination until ctx ends: all of them, whenever they
// may have changed, or the error of an attempt to read them. A *consul.Directory is one.
type Watcher interface {
	WatchIntentions(ctx context.Context, destination string, report func(intention.Set, error))
}

// Option changes what [New] makes.
type Option func(*options)

type options struct {
	watcher     Watcher
	fixed       *intention.Set
	policy      bool
	trustDomain string
	callers     *caller.Callers
	log         *slog.Logger
	observer    interceptors.Observer
}

// WithWatcher has watcher report the intentions.
func WithWatcher(watcher Watcher) Option { return func(o *options) { o.watcher = watcher } }

// WithIntentions decides by set, without a directory.
func WithIntentions(set intention.Set) Option { return func(o *options) { o.fixed = &set } }

// WithPolicy decides by the intentions in the policies of the services that are called: those of
// contracts, Go options and operators. A service without any is open to everybody.
func WithPolicy() Option { return func(o *options) { o.policy = true } }

// WithTrustDomain wants callers of another trust domain than that of the directory's own CA,
// such as that of a SPIRE server.
func WithTrustDomain(domain string) Option { return func(o *options) { o.trustDomain = domain } }

// WithCallers sets which peers may speak for others: permissions see the subject that these
// forward, in metadata [caller.SubjectKey]. From other peers, and by default from all, that key
// is missing to permissions. The caller itself stays the service that its certificate proves.
func WithCallers(callers *caller.Callers) Option { return func(o *options) { o.callers = callers } }

// WithLogger logs denials, and intentions that cannot be read or are not understood, to log.
// Default, and nil: slog.Default().
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// WithObserver sets what receives an [*Event] of each call.
func WithObserver(observer interceptors.Observer) Option {
	return func(o *options) { o.observer = observer }
}

// Authorizer is the concern. It is safe for concurrent use and serves any number of servers
// of one service. Close it.
type Authorizer struct {
	destination string
	options
	verified  *caller.Callers // which remember the identities of certificates
	publisher *interceptors.Publisher
	denials   *lines.Limit

	current  atomic.Pointer[rules]
	services services // with WithPolicy
	counts   counts
	streams  streams

	first   chan struct{} // closed when intentions were read for the first time
	read    sync.Once     // closes first
	started sync.Once
	ctx     context.Context // of the watch
	stop    context.CancelFunc
	ended   sync.WaitGroup
}

// rules are what decides now, and where it is from.
type rules struct {
	*intention.Rules                // nil: none were read
	readAt           time.Time      // zero before the first answer
	failing          bool           // the last attempt to read failed
	err              error          // of the first attempt in a row that failed
	set              *intention.Set // as reported, to notice a change
}

// New makes the authorizer of a service, by the name that intentions have as a destination.
// With [WithWatcher] it watches until it is closed.
func New(destination string, opts ...Option) (*Authorizer, error) {
	a, err := NewUnstarted(destination, opts...)
	if err != nil {
		return nil, err
	}
	a.Start()
	return a, nil
}

// NewUnstarted is [New] that does not watch before [Authorizer.Start]: until then nothing is
// opened, and all calls are denied.
func NewUnstarted(destination string, opts ...Option) (*Authorizer, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if given(o.watcher != nil, o.fixed != nil, o.policy) != 1 {
		return nil, errors.New("authz: want one of WithWatcher, WithIntentions and WithPolicy")
	}
	if o.log == nil {
		o.log = slog.Default()
	}
	verified, err := caller.New()
	if err != nil {
		return nil, fmt.Errorf("authz: %w", err)
	}
	a := &Authorizer{
		destination: destination, options: o, verified: verified,
		publisher: interceptors.NewPublisher(o.observer), denials: lines.New(maxDenialLines), first: make(chan struct{}),
	}
	a.ctx, a.stop = context.WithCancel(context.Background())
	if _, err := intention.Compile(destination, intention.Set{}); err != nil {
		return nil, fmt.Errorf("authz: %w", err)
	}
	a.current.Store(&rules{})
	if o.policy {
		close(a.first)
	}
	if o.fixed != nil {
		compiled, err := intention.Compile(destination, *o.fixed)
		if err != nil {
			return nil, fmt.Errorf("authz: WithIntentions: %w", err)
		}
		if refused := compiled.Refused(); len(refused) > 0 {
			return nil, fmt.Errorf("authz: WithIntentions: %s", strings.Join(refused, "; "))
		}
		a.current.Store(&rules{Rules: compiled, readAt: time.Now()})
		close(a.first)
	}
	return a, nil
}

func given(all ...bool) (n int) {
	for _, one := range all {
		if one {
			n++
		}
	}
	return n
}

// Start begins to watch. Only the first call has an effect, and none after [Authorizer.Close].
func (a *Authorizer) Start() {
	a.started.Do(func() {
		if a.watcher != nil {
			a.ended.Go(func() { a.watch(a.ctx) })
		}
	})
}

// Wait waits until intentions were read for the first time, or returns why they were not when
// ctx ends.
func (a *Authorizer) Wait(ctx context.Context) error {
	select {
	case <-a.first:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the intentions about %q were not read: %w", a.destination, cmp.Or(a.current.Load().err, ctx.Err()))
	}
}

// closeTimeout is how long a watcher has to return when it is stopped.
const closeTimeout = 5 * time.Second

// Close ends the watch. The last intentions still decide. A watcher that does not return
// within 5 s is logged and left running.
func (a *Authorizer) Close() {
	a.started.Do(func() {})
	a.stop()
	if err := guard.Within(closeTimeout, a.ended.Wait, func(error) {}); err != nil {
		a.log.Error("the watch of intentions does not end: it is left running", "service", a.destination)
	}
}

// watch runs the watcher. One that panics, or returns before it is stopped, reports nothing
// any more, which is a failure to read.
func (a *Authorizer) watch(ctx context.Context) {
	defer func() {
		err := errors.New("the watcher has returned")
		if value := recover(); value != nil {
			err = &guard.Panic{Value: value, Stack: string(debug.Stack())}
			a.log.Error("the watcher of intentions has panicked", "service", a.destination, "panic", value, "stack", string(debug.Stack()))
		}
		if ctx.Err() == nil {
			a.report(intention.Set{}, err)
		}
	}()
	a.watcher.WatchIntentions(ctx, a.destination, a.report)
}

// Stage is [interceptors.Authorization].
func (a *Authorizer) Stage() interceptors.Stage { return interceptors.Authorization }

// report is called by the watcher, in its goroutine.
func (a *Authorizer) report(set intention.Set, err error) {
	last := a.current.Load()
	log := a.log.With("service", a.destination)
	if err != nil {
		a.failed(log, last, err)
		return
	}
	compiled, err := intention.Compile(a.destination, set)
	if err != nil {
		a.failed(log, last, err)
		return
	}
	now := &rules{Rules: compiled, readAt: time.Now(), set: &set}
	defer a.read.Do(func() { close(a.first) }) // when they decide
	switch {
	case last.readAt.IsZero():
		log.Info("intentions were read: they decide from now on", "intentions", compiled.Len(), "default", set.Default)
	case last.failing:
		log.Info("intentions are read again", "intentions", compiled.Len(), "default", set.Default)
	}
	if last.same(now) {
		now.Rules = last.Rules // what is evaluated for methods stays valid
		a.current.Store(now)
		return
	}
	for _, refused := range compiled.Refused() {
		log.Warn("an intention is not understood", "intention", refused)
	}
	a.current.Store(now)
	a.recheck()
}

// failed keeps what was read last, and denies all as long as nothing was.
func (a *Authorizer) failed(log *slog.Logger, last *rules, err error) {
	if last.failing {
		return // logged
	}
	now := *last
	now.failing, now.err = true, err
	a.current.Store(&now)
	if last.readAt.IsZero() {
		log.Error("intentions cannot be read: all calls are denied", "error", err)
		return
	}
	log.Error("intentions cannot be read: the last ones decide", "error", err, "read", last.readAt)
}

// recheck decides again about all open streams.
func (a *Authorizer) recheck() {
	for _, s := range a.streams.all() {
		s.recheck()
	}
}
