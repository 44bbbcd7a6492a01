package resolver

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Snapshots keeps the last good answers over the end of the program. Package
// [github.com/meshlite-go/meshlite/resolver/snapshot] does so on disk. It must be
// safe for concurrent use; directory is the [catalog.Watcher]'s name.
type Snapshots interface {
	// Load is what was saved last: a zero Snapshot if there is nothing, an error
	// that says why what is there cannot be used.
	Load(directory string, q catalog.Query) (catalog.Snapshot, error)
	// Save replaces what was saved before.
	Save(directory string, q catalog.Query, s catalog.Snapshot) error
}

// savePause is the shortest time between two snapshots of one watch.
const savePause = time.Second

// saver writes the snapshots of one watch in a goroutine of its own: a disk that
// hangs must not hold up discovery. A nil saver does nothing.
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

// save hands over the newest snapshot, in place of one that has not been written
// yet. Only one goroutine at a time may call it.
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
			err := s.write(snapshot)
			if err == nil {
				last = snapshot.Instances
			} else if !failed {
				s.log.Warn("the snapshot cannot be kept on disk", "error", err)
			}
			failed = err != nil
			pause(ctx, savePause)
		case <-ctx.Done():
			return
		}
	}
}

// close writes what is left and ends.
func (s *saver) close() {
	if s == nil {
		return
	}
	s.cancel()
	<-s.done
	select {
	case snapshot := <-s.newest:
		_ = s.write(snapshot) // the last failure was logged
	default:
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// equal reports whether both are the same instances in the same order.
func equal(a, b []catalog.Instance) bool {
	return slices.EqualFunc(a, b, catalog.Instance.Equal)
}
