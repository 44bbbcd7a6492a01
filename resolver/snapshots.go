package resolver

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
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

const (
	minSaveInterval  = time.Second           // between two snapshots of one watch
	saveCloseTimeout = 50 * time.Millisecond // for the disk, when a watch ends
)

// saver writes the snapshots of one watch in a goroutine of its own: a stalled disk
// must delay neither discovery nor the closing of a channel. A nil saver does nothing.
type saver struct {
	write  func(catalog.Snapshot) error
	log    *slog.Logger
	newest chan catalog.Snapshot
	cancel context.CancelFunc
	done   chan struct{}
}

func newSaver(write func(catalog.Snapshot) error, log *slog.Logger) *saver {
	ctx, cancel := context.WithCancel(context.Background())
	s := &saver{write: write, log: log, newest: make(chan catalog.Snapshot, 1), cancel: cancel, done: make(chan struct{})}
	go s.run(ctx)
	return s
}

// save queues a snapshot, in place of one that is not written yet. Only one goroutine at a
// time may call it.
func (s *saver) save(snapshot catalog.Snapshot) {
	if s == nil {
		return
	}
	select {
	case <-s.newest:
	default:
	}
	s.newest <- snapshot
}

func (s *saver) run(ctx context.Context) {
	defer close(s.done)
	failed := false
	var last []catalog.Instance
	for {
		select {
		case snapshot := <-s.newest:
			if equal(last, snapshot.Instances) {
				continue
			}
			err := s.tryWrite(snapshot)
			if err == nil {
				last = snapshot.Instances
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
func (s *saver) tryWrite(snapshot catalog.Snapshot) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("saving it panicked: %v", p)
		}
	}()
	return s.write(snapshot)
}

// flush writes what is queued.
func (s *saver) flush() {
	select {
	case snapshot := <-s.newest:
		_ = s.tryWrite(snapshot) // the last failure was logged
	default:
	}
}

// close writes what is queued and waits, but not for a slow disk: then the goroutine ends
// with its last write.
func (s *saver) close() {
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

// equal reports whether both are the same instances in the same order.
func equal(a, b []catalog.Instance) bool {
	return slices.EqualFunc(a, b, catalog.Instance.Equal)
}
