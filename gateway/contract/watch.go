package contract

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

const (
	pollInterval  = time.Second
	firstBackoff  = 250 * time.Millisecond
	defaultPeriod = 30 * time.Second
	logInterval   = time.Minute // of a failure that stays the same

	// For settleTime after a change of instances loads are settlePause apart: a connection to
	// a new one may not be ready at once, and an old one may still answer.
	settleTime  = 4 * time.Second
	settlePause = 800 * time.Millisecond
)

const (
	// confirmations is how many loads in a row must bring a contract that was replaced
	// before. In a rolling update loads alternate between old and new instances.
	confirmations = 3
	maxReplaced   = 16 // contracts that are remembered as replaced
)

// WatchConfig says what to watch.
type WatchConfig struct {
	Source Source // required
	// OnContract receives the first contract and then each that differs from the last one
	// it took, one at a time. With an error it refuses the contract. It must not call Close.
	// One that was replaced before, as an old instance still offers it in a rolling update,
	// is passed when three loads in a row have brought it.
	OnContract func(*Contract) error // required

	Changed  <-chan struct{} // to load at once, such as when instances changed; nil is never
	Interval time.Duration   // between loads; 0 is 30 s
	Name     string          // of the service, for the log
	Logger   *slog.Logger    // nil is slog.Default
}

// State is what a watch has done. Counters only grow.
type State struct {
	Loads    uint64    // attempts
	Failures uint64    // of them, those that brought no contract
	Refusals uint64    // contracts that OnContract refused
	Changes  uint64    // contracts that it took
	LoadedAt time.Time // when the source last answered with a valid contract
	Err      error     // of the last attempt; nil is success
	Contract *Contract // the last one that was taken; nil is none yet
}

// Watcher loads a contract again and again. It is safe for concurrent use.
type Watcher struct {
	config WatchConfig
	log    *slog.Logger
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	state State

	// Of the goroutine of run.
	replaced  []*Contract // that were taken and then replaced by others
	returning *Contract   // one of them that was loaded last
	returns   int         // loads in a row that brought it
	failures  int         // in a row
	loggedAt  time.Time
	logged    string
}

// Watch loads now, when Changed fires, when a file of [Files] changes, and each
// Interval. A load that fails changes nothing; it is logged, and repeated with backoff.
// The owner calls Close.
func Watch(config WatchConfig) (*Watcher, error) {
	switch {
	case config.Source == nil:
		return nil, errors.New("contract.WatchConfig.Source: missing: write contract.Reflection(conn) or contract.Files(path)")
	case config.OnContract == nil:
		return nil, errors.New("contract.WatchConfig.OnContract: missing: write the function that takes the contract")
	case config.Interval < 0:
		return nil, fmt.Errorf("contract.WatchConfig.Interval: %v is negative: write at least 1s, or 0 for %v", config.Interval, defaultPeriod)
	}
	config.Interval = cmp.Or(config.Interval, defaultPeriod)
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watcher{config: config, log: config.Logger, cancel: cancel, done: make(chan struct{})}
	if w.log == nil {
		w.log = slog.Default()
	}
	go w.run(ctx)
	return w, nil
}

// Close ends the watch. It returns when OnContract does not run and never will again.
func (w *Watcher) Close() {
	w.cancel()
	<-w.done
}

// State returns what the watch has done so far.
func (w *Watcher) State() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

func (w *Watcher) run(ctx context.Context) {
	defer close(w.done)
	next := time.NewTimer(0)
	defer next.Stop()
	polls, version := w.polls()
	defer polls.Stop()
	changed, settled := w.config.Changed, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		case _, open := <-changed:
			if !open {
				changed = nil
				continue
			}
			settled, w.failures = time.Now().Add(settleTime), 0
		case <-polls.C:
			now := w.version()
			if now == version {
				continue
			}
			version, w.failures = now, 0
		}
		err := w.load(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := jitter(w.config.Interval)
		if w.returning != nil {
			pause = min(pause, jitter(time.Second))
		}
		if err != nil {
			pause = min(pause, w.backoff())
		}
		if time.Now().Before(settled) {
			pause = min(pause, settlePause)
		}
		next.Reset(pause)
	}
}

// polls is a ticker that only ticks for files, and their version before the first load.
func (w *Watcher) polls() (*time.Ticker, string) {
	ticker := time.NewTicker(pollInterval)
	if !w.isFiles() {
		ticker.Stop()
	}
	return ticker, w.version()
}

func (w *Watcher) version() string {
	if paths, ok := w.config.Source.(files); ok {
		return paths.version()
	}
	return ""
}

// load makes one attempt. On an error the contract before it stays.
func (w *Watcher) load(ctx context.Context) error {
	loaded, err := w.read(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var changed bool
	if err == nil {
		changed, err = w.pass(loaded)
	}
	w.mu.Lock()
	w.state.Loads++
	w.state.Err = err
	switch {
	case loaded == nil:
		w.state.Failures++
	default:
		w.state.LoadedAt = time.Now()
		if err != nil {
			w.state.Refusals++
		}
		if changed {
			w.state.Changes++
			w.state.Contract = loaded
		}
	}
	kept := w.state.Contract
	w.mu.Unlock()
	w.report(loaded, kept, changed, err)
	return err
}

// read never panics: a descriptor comes from another program.
func (w *Watcher) read(ctx context.Context) (loaded *Contract, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			loaded, err = nil, fmt.Errorf("panic while the contract was read: %v\n%s", panicked, debug.Stack())
		}
	}()
	loaded, err = w.config.Source.Load(ctx)
	if loaded == nil && err == nil {
		err = errors.New("the source returned no contract")
	}
	return loaded, err
}

// pass offers a contract that differs from the current one.
func (w *Watcher) pass(loaded *Contract) (changed bool, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			changed, err = false, fmt.Errorf("panic while the contract was taken: %v\n%s", panicked, debug.Stack())
		}
	}()
	current := w.State().Contract
	if !w.confirmed(loaded, current) {
		return false, nil
	}
	if err := w.config.OnContract(loaded); err != nil {
		return false, fmt.Errorf("refused: %w", err)
	}
	w.replaced = slices.DeleteFunc(append(w.replaced, current), func(c *Contract) bool { return c == nil || c.Equal(loaded) })
	if len(w.replaced) > maxReplaced {
		w.replaced = w.replaced[1:]
	}
	w.returning = nil
	return true, nil
}

// confirmed reports whether loaded is to be offered: it is not the current contract and,
// if it was replaced before, enough loads in a row have brought it.
func (w *Watcher) confirmed(loaded, current *Contract) bool {
	before := slices.ContainsFunc(w.replaced, loaded.Equal)
	switch {
	case loaded.Equal(current):
		w.returning = nil
		return false
	case !before || w.isFiles():
		return true
	case !loaded.Equal(w.returning):
		w.returning, w.returns = loaded, 1
	default:
		w.returns++
	}
	return w.returns >= confirmations
}

func (w *Watcher) isFiles() bool {
	_, ok := w.config.Source.(files)
	return ok
}

func (w *Watcher) report(loaded, kept *Contract, changed bool, err error) {
	if err == nil {
		if w.logged != "" || changed {
			w.log.Info("contract read", "service", w.config.Name, "changed", changed, "offers", loaded.names())
		}
		w.failures, w.logged = 0, ""
		return
	}
	w.failures++
	if text := err.Error(); text != w.logged || time.Since(w.loggedAt) >= logInterval {
		w.logged, w.loggedAt = text, time.Now()
		w.log.Warn("contract not read", "service", w.config.Name, "kept", kept != nil, "failures", w.failures, "err", err)
	}
}

// backoff doubles with each failure in a row, up to the interval.
func (w *Watcher) backoff() time.Duration {
	pause := firstBackoff << min(w.failures-1, 16)
	return jitter(min(pause, w.config.Interval))
}

// jitter keeps the loads of many gateways apart.
func jitter(d time.Duration) time.Duration {
	if d < 2 {
		return d
	}
	return d/2 + rand.N(d/2)
}
