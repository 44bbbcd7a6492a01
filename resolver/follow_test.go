package resolver_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// A follower receives the list that channels use, and nothing after the end.
func TestFollowBelievesAsChannelsDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		directory := &scripted{}
		b := resolver.NewBuilder(directory, resolver.WithLogger(silent))
		var known, reports atomic.Int64
		known.Store(-1)
		stop := b.Follow(catalog.Query{Service: "catalog"}, func(list []catalog.Instance) { known.Store(int64(len(list))); reports.Add(1) })
		check := func(what string, want int64) {
			t.Helper()
			synctest.Wait()
			if n := known.Load(); n != want {
				t.Errorf("%s: %d instances are known, want %d", what, n, want)
			}
		}
		answer := func(numbers ...int) {
			synctest.Wait()
			directory.report(catalog.Snapshot{Instances: instances(numbers...), Time: time.Now()})
		}
		check("before an answer", -1)
		answer(upTo(10)...)
		check("ten", 10)
		answer(upTo(9)...)
		check("one has left", 9)
		answer(1, 2)
		check("too many have left", 5)
		time.Sleep(time.Minute)
		check("after the grace time", 2)
		directory.fail(errors.New("reset"))
		time.Sleep(time.Hour)
		check("while the directory is away", 2)
		if s := b.Stats(); len(s) != 1 || s[0].Channels != 1 {
			t.Errorf("watches are %+v, want one", s)
		}
		before := reports.Load()
		stop()
		stop()
		if !b.Idle() || reports.Load() != before {
			t.Error("the watch has not ended")
		}
	})
}
