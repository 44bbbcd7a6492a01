package resolver_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// broken is what users' own directories and disks may do.
type broken struct {
	scripted
	load, save, watch func()
}

func (b *broken) Load(string, catalog.Query) (catalog.Snapshot, error) {
	b.load()
	return catalog.Snapshot{}, nil
}

func (b *broken) Save(string, catalog.Query, catalog.Snapshot) error { b.save(); return nil }

func (b *broken) Watch(ctx context.Context, q catalog.Query, report func(catalog.Snapshot, error)) {
	b.scripted.Watch(ctx, q, report)
	b.watch()
}

// X14: Every documented bound holds against user code that hangs or panics: a disk keeps
// discovery from nothing, a channel closes, and the log says what was left running.
//
// Case X14 (discovery): Disks and directories that hang or panic hold up neither discovery nor
// a channel's end.
func TestBrokenDisksAndDirectoriesHoldUpNothing(t *testing.T) {
	nothing := func() {}
	panics := func() { panic("user code") }
	for name, test := range map[string]struct {
		broken func(hang func()) *broken
		logged string
	}{
		"load hangs": {func(hang func()) *broken { return &broken{load: hang, save: nothing, watch: nothing} }, "is not read in time"},
		"load panics": {func(func()) *broken { return &broken{load: panics, save: nothing, watch: nothing} },
			"reading the snapshot panicked"},
		"save hangs": {func(hang func()) *broken { return &broken{load: nothing, save: hang, watch: nothing} },
			"the snapshot is still being written: the channel does not wait"},
		"save panics": {func(func()) *broken { return &broken{load: nothing, save: panics, watch: nothing} }, "saving it panicked: user code"},
		"watch hangs": {func(hang func()) *broken { return &broken{load: nothing, save: nothing, watch: hang} },
			"the directory does not end its watch: its goroutine is left running"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				defer synctest.Wait()
				defer close(release)
				d := test.broken(func() { <-release })
				var lines bytes.Buffer
				channel := &recorder{}
				r := build(t, resolver.NewBuilder(d, resolver.WithSnapshots(d), resolver.WithLogger(slog.New(slog.NewTextHandler(&lines, nil)))),
					"consul:///catalog", channel)
				time.Sleep(time.Second)
				for n := range 3 {
					d.report(catalog.Snapshot{Instances: instances(upTo(n + 1)...), Time: time.Now()})
					synctest.Wait()
					if got := len(strings.Fields(channel.addresses())); got != n+1 {
						t.Errorf("%d endpoints, want %d", got, n+1)
					}
					time.Sleep(2 * time.Second)
				}
				r.Close()
				if !strings.Contains(lines.String(), test.logged) {
					t.Errorf("logged %q, want %q", &lines, test.logged)
				}
			})
		})
	}
}
