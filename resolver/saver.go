package resolver

import (
	"context"
	"fmt"
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

// closeTime is how long the end of a watch waits for the disk.
const closeTime = 50 * time.Millisecond

// saver writes the snapshots of one watch in a goroutine of its own: a disk that
// hangs must hold up neither discovery nor the end of a channel. A nil saver does
// nothing.
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
			err := s.tryWrite(snapshot)
			if err == nil {
				last = snapshot.Instances
			} else if !failed {
				s.log.Warn("the snapshot cannot be kept on disk", "error", err)
			}
			failed = err != nil
			select {
			case <-time.After(savePause):
			case <-ctx.Done():
			}
		case <-ctx.Done():
			s.finish()
			return
		}
	}
}

// tryWrite makes a panic an error: no caller is there to recover from it.
func (s *saver) tryWrite(snapshot catalog.Snapshot) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("saving it has panicked: %v", p)
		}
	}()
	return s.write(snapshot)
}

// finish writes what is left.
func (s *saver) finish() {
	select {
	case snapshot := <-s.newest:
		_ = s.tryWrite(snapshot) // the last failure was logged
	default:
	}
}

// close has what is left written, and waits for that unless the disk is slow: then
// the saver ends with its last write.
func (s *saver) close() {
	if s == nil {
		return
	}
	s.cancel()
	select {
	case <-s.done:
	case <-time.After(closeTime):
		s.log.Warn("the snapshot is still being written: it is left to the disk")
	}
}

// equal reports whether both are the same instances in the same order.
func equal(a, b []catalog.Instance) bool {
	return slices.EqualFunc(a, b, catalog.Instance.Equal)
}
