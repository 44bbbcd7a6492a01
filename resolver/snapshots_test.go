package resolver_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/snapshot"
)

// shelf keeps snapshots in memory and counts what is done to it.
type shelf struct {
	mu     sync.Mutex
	kept   map[string]catalog.Snapshot
	saves  int
	broken error
}

func (s *shelf) Load(directory string, q catalog.Query) (catalog.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[directory+q.Key()], s.broken
}

func (s *shelf) Save(directory string, q catalog.Query, snapshot catalog.Snapshot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil {
		s.kept = map[string]catalog.Snapshot{}
	}
	s.kept[directory+q.Key()] = snapshot
	s.saves++
	return s.broken
}

// count is how often was saved, and how many instances last.
func (s *shelf) count() (saves, instances int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, snapshot := range s.kept {
		instances += len(snapshot.Instances)
	}
	return s.saves, instances
}

var _ resolver.Snapshots = snapshot.Dir{}

// R19: with a snapshot on disk a client starts while Consul is down: 0 failed
// calls.
//
// Case R19: A client starts from its snapshot while Consul is down; a bad one is ignored with
// a warning.
func TestClientStartsFromASnapshotWhileConsulIsDown(t *testing.T) {
	dir, err := snapshot.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.start(1)
		m.start(2)
		first := m.connect(resolver.WithSnapshots(dir))
		mustCall(t, first, 10)
		first.Close()
		m.agent.SetReachable(false)
		second := m.connect(resolver.WithSnapshots(dir)) // with a builder, and so a memory, of its own
		defer second.Close()
		mustCall(t, second, 100)
		m.start(3)
		m.agent.SetReachable(true)
		time.Sleep(20 * time.Second)
		mustCall(t, second, 100)
		if counts := m.count(3); counts[2] == 0 {
			t.Error("when Consul is back, its answer is not used")
		}
	})
}

// R19, with an agent that neither answers nor refuses: the snapshot is used at once.
//
// Case R19
// Case R25
func TestClientStartsFromASnapshotWhileConsulHangs(t *testing.T) {
	dir, err := snapshot.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.start(1)
		first := m.connect(resolver.WithSnapshots(dir))
		mustCall(t, first, 1)
		first.Close()
		m.agent.Intercept(hang)
		second := m.connect(resolver.WithSnapshots(dir))
		defer second.Close()
		start := time.Now()
		mustCall(t, second, 10)
		if took := time.Since(start); took > 0 {
			t.Errorf("the first calls took %v, want none", took)
		}
	})
}

// R19: a damaged or foreign snapshot is ignored with a warning.
//
// Case R19
func TestSnapshotThatCannotBeUsedIsIgnoredWithAWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		m := newMesh(t)
		m.agent.SetReachable(false)
		conn := m.connect(resolver.WithSnapshots(&shelf{broken: errors.New("the checksum is wrong")}),
			resolver.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		err := call(conn)
		conn.Close()
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "refused the connection") {
			t.Errorf("the call answers %v, want what it would without a snapshot", err)
		}
		if !strings.Contains(log.String(), "the checksum is wrong") {
			t.Errorf("the log does not say why the snapshot is not used: %s", log.String())
		}
	})
}

// An old snapshot is believed while the directory is silent or empty, for the
// grace time, and in no point against an answer.
//
// Case R19
func TestSnapshotYieldsToAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := &shelf{}
		if err := kept.Save("script", catalog.Query{Service: "catalog"}, catalog.Snapshot{Instances: instances(1, 2, 3, 4)}); err != nil {
			t.Fatal(err)
		}
		other := newScene(t, "consul:///catalog", resolver.WithSnapshots(kept))
		if got := other.answer(7); len(got) != 1 || got[0] != address(7) {
			t.Errorf("endpoints are %v, want the answer and nothing of the snapshot", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		kept := &shelf{}
		if err := kept.Save("script", catalog.Query{Service: "catalog"}, catalog.Snapshot{Instances: instances(1, 2, 3, 4)}); err != nil {
			t.Fatal(err)
		}
		s := newScene(t, "consul:///catalog", resolver.WithSnapshots(kept))
		if got := s.answer(); len(got) != 4 {
			t.Errorf("endpoints are %v, want the snapshot while an empty answer waits for the grace time", got)
		}
		time.Sleep(16 * time.Second)
		if got := s.endpoints(); len(got) != 0 {
			t.Errorf("endpoints are %v after the grace time, want none", got)
		}
	})
}

func TestSnapshotsAreSavedWhenSomethingChangesAndNotTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := &shelf{}
		s := newScene(t, "consul:///catalog", resolver.WithSnapshots(kept))
		s.answer(1, 2, 3)
		s.answer(1, 2, 3)
		time.Sleep(time.Minute)
		if saves, n := kept.count(); saves != 1 || n != 3 {
			t.Errorf("%d snapshots, the last of %d instances, want 1 of 3", saves, n)
		}
		for range 100 { // within ten seconds
			s.answer(1, 2, 3, 4)
			time.Sleep(50 * time.Millisecond)
			s.answer(1, 2, 3)
			time.Sleep(50 * time.Millisecond)
		}
		if saves, _ := kept.count(); saves > 12 {
			t.Errorf("%d snapshots in ten seconds of changes, want one a second", saves)
		}
		s.answer()
		time.Sleep(time.Minute)
		if _, n := kept.count(); n == 0 {
			t.Error("emptiness was saved over the last good answer")
		}
	})
}

// What the guard holds is not saved as gone.
func TestMassRemovalIsSavedWhenItIsBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := &shelf{}
		s := newScene(t, "consul:///catalog", resolver.WithSnapshots(kept), resolver.WithMaxRemoval(0))
		s.answer(1, 2, 3, 4)
		s.answer(1)
		time.Sleep(10 * time.Second)
		if _, n := kept.count(); n != 4 {
			t.Errorf("%d instances are saved within the grace time, want all 4", n)
		}
		time.Sleep(10 * time.Second)
		if _, n := kept.count(); n != 1 {
			t.Errorf("%d instances are saved after the grace time, want the one that is left", n)
		}
	})
}

// With snapshots, too, channels share a watch.
func TestChannelsWithEqualSnapshotsShareAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.start(1)
		builder := resolver.NewBuilder(m.directory(), resolver.WithLogger(silent))
		one, other := t.TempDir(), t.TempDir()
		for _, dir := range []string{one, other} {
			for range 3 {
				kept, err := snapshot.Open(dir)
				if err != nil {
					t.Fatal(err)
				}
				r := build(t, builder.With(resolver.WithSnapshots(kept)), "consul:///catalog", &recorder{})
				defer r.Close()
			}
		}
		synctest.Wait()
		if n := len(builder.Stats()); n != 2 {
			t.Errorf("%d watches for channels with two folders of snapshots, want 2", n)
		}
	})
}

// stuck is a disk that hangs until it is released.
type stuck struct {
	shelf
	release chan struct{}
}

func (s *stuck) Save(string, catalog.Query, catalog.Snapshot) error {
	<-s.release
	return nil
}

// R10, with a disk that hangs: Close returns within 100 ms, and what is left ends
// with the disk.
//
// Case R10
func TestCloseIsQuickWhileTheDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := byDatacenter{"a": {}, "b": {}, "c": {}}
		disk := &stuck{release: make(chan struct{})}
		target := "consul:///catalog?dc=a&dc=b&dc=c"
		r := build(t, resolver.NewBuilder(d, resolver.WithLogger(silent), resolver.WithSnapshots(disk)), target, &recorder{})
		time.AfterFunc(time.Minute, func() { close(disk.release) })
		for _, dc := range d {
			dc.report(catalog.Snapshot{Instances: instances(1)})
		}
		synctest.Wait()
		start := time.Now()
		r.Close()
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("closing took %v", took)
		}
		<-disk.release
	})
}

// A client that used its snapshot during an outage holds its instances as any other
// does when the agent comes back and gets the instances one by one.
//
// Case R19
func TestSnapshotInUseIsGuardedAfterTheOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept, savedAt := &shelf{}, time.Now().Add(-time.Hour)
		if err := kept.Save("script", catalog.Query{Service: "catalog"}, catalog.Snapshot{Instances: instances(1, 2, 3), Time: savedAt}); err != nil {
			t.Fatal(err)
		}
		s := newScene(t, "consul:///catalog", resolver.WithSnapshots(kept))
		s.directory.fail(errors.New("refused"))
		synctest.Wait()
		if got := s.builder.Stats()[0].AnsweredAt; !got.Equal(savedAt) {
			t.Errorf("the statistics say answered at %v, want %v as the snapshot does", got, savedAt)
		}
		for _, list := range [][]int{{1}, {1, 3}, {1, 2, 3}} {
			if n := len(s.answer(list...)); n != 3 {
				t.Errorf("%d endpoints after the answer %v, want all three", n, list)
			}
			time.Sleep(2 * time.Second)
		}
	})
}
