package resolver

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// Snapshots stores the last good answers for the start of a later process. Package
// [github.com/meshlite-go/meshlite/resolver/snapshot] does so on disk. It must be
// safe for concurrent use; directory is the [catalog.Watcher]'s name.
type Snapshots interface {
	// Load returns what was saved last, a zero Snapshot if nothing was, or an error
	// that says why it cannot be used.
	Load(directory string, q catalog.Query) (catalog.Snapshot, error)
	// Save replaces what was saved before.
	Save(directory string, q catalog.Query, s catalog.Snapshot) error
}

// ChainSnapshots are [Snapshots] that keep discovery chains, too, each by its directory, its
// service and the datacenter for which it is compiled; empty is the agent's own.
type ChainSnapshots interface {
	Snapshots
	// LoadChain returns what was saved last, nil if that is nothing, or an error that says why it
	// cannot be used. It has called [route.Chain.Check].
	LoadChain(directory, service, datacenter string) (*route.Chain, error)
	// SaveChain replaces what was saved before. nil, plain discovery, removes it.
	SaveChain(directory, service, datacenter string, chain *route.Chain) error
}

const (
	minSaveInterval  = time.Second           // between two snapshots of one watch
	saveCloseTimeout = 50 * time.Millisecond // for the disk, when a watch ends
)

// saver writes the snapshots of one watch in a goroutine of its own: a stalled disk
// must delay neither discovery nor the closing of a channel. A nil saver does nothing.
type saver[T any] struct {
	write  func(T) error
	same   func(a, b T) bool // so that b is not written after a
	log    *slog.Logger
	newest chan T
	cancel context.CancelFunc
	done   chan struct{}
}

func newSaver[T any](write func(T) error, same func(a, b T) bool, log *slog.Logger) *saver[T] {
	ctx, cancel := context.WithCancel(context.Background())
	s := &saver[T]{write: write, same: same, log: log, newest: make(chan T, 1), cancel: cancel, done: make(chan struct{})}
	go s.run(ctx)
	return s
}

// save queues a snapshot, in place of one that is not written yet. Only one goroutine at a
// time may call it.
func (s *saver[T]) save(snapshot T) {
	if s == nil {
		return
	}
	select {
	case <-s.newest:
	default:
	}
	s.newest <- snapshot
}

func (s *saver[T]) run(ctx context.Context) {
	defer close(s.done)
	failed, written := false, false
	var last T
	for {
		select {
		case snapshot := <-s.newest:
			if written && s.same(last, snapshot) {
				continue
			}
			err := s.tryWrite(snapshot)
			if err == nil {
				last, written = snapshot, true
			} else if !failed {
				s.log.Warn("the snapshot cannot be saved: a start without the directory would use an older one", "error", err)
			}
			failed = err != nil
			select {
			case <-time.After(minSaveInterval):
			case <-ctx.Done():
			}
		case <-ctx.Done():
			s.flush()
			return
		}
	}
}

// tryWrite turns a panic into an error: this goroutine has no caller that recovers.
func (s *saver[T]) tryWrite(snapshot T) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("saving it panicked: %v", p)
		}
	}()
	return s.write(snapshot)
}

// flush writes what is queued.
func (s *saver[T]) flush() {
	select {
	case snapshot := <-s.newest:
		_ = s.tryWrite(snapshot) // the last failure was logged
	default:
	}
}

// close writes what is queued and waits, but not for a slow disk: then the goroutine ends
// with its last write.
func (s *saver[T]) close() {
	if s == nil {
		return
	}
	s.cancel()
	select {
	case <-s.done:
	case <-time.After(saveCloseTimeout):
		s.log.Warn("the snapshot is still being written: the channel does not wait for the disk", "timeout", saveCloseTimeout)
	}
}

// loadWithin waits for load, which reads a snapshot from disk, for at most snapshotTimeout.
func loadWithin(ctx context.Context, log *slog.Logger, load func()) {
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		defer func() {
			if p := recover(); p != nil {
				log.Error("reading the snapshot panicked: discovery starts without it", "panic", p)
			}
		}()
		load()
	}()
	timer := time.NewTimer(snapshotTimeout)
	defer timer.Stop()
	select {
	case <-loaded:
	case <-timer.C:
		log.Warn("the snapshot is not read in time: discovery starts without it", "timeout", snapshotTimeout)
	case <-ctx.Done():
	}
}

// sameInstances reports whether both are the same instances in the same order.
func sameInstances(a, b catalog.Snapshot) bool { return equal(a.Instances, b.Instances) }

// equal reports whether both are the same instances in the same order.
func equal(a, b []catalog.Instance) bool {
	return slices.EqualFunc(a, b, catalog.Instance.Equal)
}
