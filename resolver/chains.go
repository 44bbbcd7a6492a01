package resolver

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"

	"github.com/meshlite-go/meshlite/resolver/route"
)

// chainKey is what channels must have in common to share the watch of a chain.
type chainKey struct {
	directory, service, datacenter string
	http                           bool           // for requests of HTTP, which can mean other parts than gRPC
	snapshots                      ChainSnapshots // nil: it is not kept
}

// chainWatch follows one chain for all its readers.
type chainWatch struct {
	*following
	key   chainKey
	saver *saver[*route.Chain] // nil without snapshots
	log   *slog.Logger

	mu      sync.Mutex
	readers map[chan<- struct{}]struct{}
	latest  chainView
}

// chainView is what a chainWatch believes at one time.
type chainView struct {
	answered bool // by the directory: chain or refused holds
	// chain is the latest that could be used; nil is plain discovery.
	chain *route.Chain
	// refused is why the latest answer is not chain; nil if it is.
	refused error
	err     error // of the last query
	// earlier is the chain of a snapshot, until the directory has answered.
	earlier *route.Chain
}

func (w *chainWatch) view() chainView {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest
}

// load reads the chain of the snapshot, unless there is an answer already.
func (w *chainWatch) load() {
	chain, err := w.key.snapshots.LoadChain(w.key.directory, w.key.service, w.key.datacenter)
	if err != nil {
		w.log.Warn("the snapshot of the discovery chain is not used", "error", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.latest.answered {
		w.latest.earlier = chain
		w.signal()
	}
}

func (w *chainWatch) save(chain *route.Chain) error {
	return w.key.snapshots.SaveChain(w.key.directory, w.key.service, w.key.datacenter, chain)
}

// report is called by the directory. A chain that it refuses leaves the last one in use.
func (w *chainWatch) report(chain *route.Chain, err error) {
	if w.key.http {
		chain, err = route.ForHTTP(chain, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var refused *route.RefusedError
	var unreadable *route.UnreadableError
	switch last := w.latest; {
	case errors.As(err, &unreadable) && last.chain == nil && last.earlier == nil:
		w.latest = chainView{answered: true} // and nothing is to be kept, or no longer kept
	case errors.As(err, &refused):
		w.latest = chainView{answered: true, chain: cmp.Or(last.chain, last.earlier), refused: err}
		if last.refused == nil || last.refused.Error() != err.Error() {
			w.log.Error("the discovery chain is refused", "in_use", w.latest.chain != nil || last.answered && last.refused == nil, "error", err)
		}
	case err != nil:
		w.latest.err = err
		if last.err == nil {
			w.log.Warn("the discovery chain cannot be read: calls go on by the last one", "known", last.answered || last.earlier != nil, "error", err)
		}
	default:
		if inUse := cmp.Or(last.chain, last.earlier); isSame(inUse, chain) {
			chain = inUse
		}
		w.latest = chainView{answered: true, chain: chain}
		w.saver.save(chain)
		if last.refused != nil || last.err != nil {
			w.log.Info("the discovery chain is read again")
		}
	}
	w.signal()
}

// signal wakes the readers. The caller holds w.mu.
func (w *chainWatch) signal() {
	for wake := range w.readers {
		signal(wake)
	}
}

// isSame reports whether both chains say the same: a blocking query ends without a change, too.
func isSame(a, b *route.Chain) bool {
	if a == nil || b == nil {
		return a == b
	}
	type said struct {
		Datacenter, Sticky string
		Routes             []*route.Route
		Targets            map[string]*route.Target
	}
	one, err := json.Marshal(said{a.Datacenter, a.Sticky, a.Routes, a.Targets})
	other, otherErr := json.Marshal(said{b.Datacenter, b.Sticky, b.Routes, b.Targets})
	return err == nil && otherErr == nil && bytes.Equal(one, other)
}

// subsetChain is the chain of a channel that goes to one subset of the service of c alone, whatever
// routes and splitters say, and without failover. It is nil if no target of c is that subset: one
// that calls may go to, or would with a weight above 0.
func subsetChain(c *route.Chain, subset string) *route.Chain {
	var found *route.Target
	for _, t := range c.Targets {
		if t.Service != c.Service || t.Subset != subset {
			continue
		}
		// That of another datacenter takes over for a failed one; by ID, as a map has no order.
		near := t.Datacenter == c.Datacenter
		if found == nil || near && found.Datacenter != c.Datacenter || near == (found.Datacenter == c.Datacenter) && t.ID < found.ID {
			found = t
		}
	}
	if found == nil {
		return nil
	}
	return &route.Chain{
		Service: c.Service, Datacenter: c.Datacenter, Index: c.Index,
		Routes:  []*route.Route{{Name: "default", Arms: []*route.Arm{{Name: subset, Weight: 100, Target: found.ID}}}},
		Targets: map[string]*route.Target{found.ID: found},
	}
}

// signal fills wake without waiting.
func signal(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default: // already awake; it will read the newest view
	}
}

// chainRegistry holds the chain watches of a builder. A watch is open while it has readers.
type chainRegistry struct {
	mu   sync.Mutex
	open map[chainKey]*chainWatch
}

// follow returns the watch of a chain. wake is filled when there is something new, until close.
func (r *chainRegistry) follow(watcher route.Watcher, key chainKey, log *slog.Logger, wake chan<- struct{}) (w *chainWatch, closeWatch func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w = r.open[key]
	if w == nil {
		w = &chainWatch{key: key, log: log.With("service", key.service, "directory", key.directory), readers: map[chan<- struct{}]struct{}{}}
		if key.snapshots != nil {
			w.saver = newSaver(w.save, isSame, w.log)
		}
		w.following = follow(w.log, func(ctx context.Context) {
			if key.snapshots != nil {
				loadWithin(ctx, w.log, w.load)
			}
			watcher.WatchChain(ctx, key.service, key.datacenter, w.report)
		})
		r.open[key] = w
	}
	w.mu.Lock()
	w.readers[wake] = struct{}{}
	w.mu.Unlock()
	signal(wake) // there may be an answer already
	return w, func() { r.leave(key, w, wake) }
}

// leave ends the watch with its last reader, and waits for it.
func (r *chainRegistry) leave(key chainKey, w *chainWatch, wake chan<- struct{}) {
	r.mu.Lock()
	w.mu.Lock()
	delete(w.readers, wake)
	last := len(w.readers) == 0
	w.mu.Unlock()
	if last {
		delete(r.open, key)
	}
	r.mu.Unlock()
	if last {
		w.stop()
		w.saver.close()
	}
}
