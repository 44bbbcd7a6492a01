package resolver_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	grpcresolver "google.golang.org/grpc/resolver"

	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// P14: a subset changes by at most one entry when one backend changes.
//
// Case P14: A subset changes by one entry, and survives idleness.
func TestSubsetChangesByOneEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog", resolver.WithSubset(20))
		members := rand.Perm(1000)
		before := s.answer(members[:500]...)
		if len(before) != 20 {
			t.Fatalf("%d endpoints, want a subset of 20", len(before))
		}
		for n := range 200 {
			if n%2 == 0 { // one leaves, one comes
				members = slices.Delete(members, n, n+1)
			} else {
				members[n], members[500+n] = members[500+n], members[n]
				members = slices.Delete(members, 500+n, 501+n)
			}
			after := s.answer(members[:499]...)
			members = append(members, 1000+n)
			left := 0
			for _, a := range before {
				if !slices.Contains(after, a) {
					left++
				}
			}
			if left > 2 { // two instances have changed
				t.Fatalf("step %d: %d of 20 endpoints were replaced for two that changed", n, left)
			}
			before = after
		}
	})
}

// P14: a subset survives an idle cycle.
//
// Case P14
func TestSubsetSurvivesAnIdleCycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		for n := range 30 {
			m.start(n + 1)
		}
		conn, err := grpc.NewClient("consul:///catalog",
			append(m.options(m.directory(), resolver.WithSubset(3)), grpc.WithIdleTimeout(time.Minute))...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		mustCall(t, conn, 1)
		synctest.Wait() // for all connections
		mustCall(t, conn, 60)
		before := used(m.count(30))
		if len(before) != 3 {
			t.Fatalf("calls went to %v, want 3 backends", before)
		}
		time.Sleep(10 * time.Minute)
		mustCall(t, conn, 60)
		if after := used(m.count(30)); !slices.Equal(before, after) {
			t.Errorf("calls went to %v and after idleness also to others: %v", before, after)
		}
	})
}

// used are the backends that were called.
func used(counts []int) []int {
	var numbers []int
	for n, calls := range counts {
		if calls > 0 {
			numbers = append(numbers, n+1)
		}
	}
	return numbers
}

// Clients that each take 10 of 100 endpoints burden all of them alike: chi-square
// at 99 degrees of freedom is above 149 once in a thousand times.
//
// Case P14
func TestSubsetsOfManyClientsCoverAllEndpoints(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		const clients, size, endpoints = 500, 10, 100
		counts := map[string]float64{}
		for range clients {
			s := newScene(t, "consul:///catalog", resolver.WithSubset(size))
			for _, a := range s.answer(upTo(endpoints)...) {
				counts[a]++
			}
		}
		const expected = clients * size / float64(endpoints)
		sum := 0.0
		for n := range endpoints {
			d := counts[address(n)] - expected
			sum += d * d / expected
		}
		if sum > 149 {
			t.Errorf("chi-square is %.0f: some endpoints are in too many subsets", sum)
		}
	})
}

func TestSubsetOfNearEndpointsIsTheNearest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog?near=_agent", resolver.WithSubset(2))
		if got := s.answer(1, 2, 3, 4); !slices.Equal(got, []string{address(1), address(2)}) {
			t.Errorf("endpoints are %v, want the first two of the answer", got)
		}
	})
}

// R22, in what can be counted: of 10,000 endpoints a channel gets a hundred,
// and of a change only when it concerns one of them.
//
// Case R22: 10,000 endpoints: a channel has its subset, a change costs what that does, 64 MiB
// at most; seconds are figures, and fail nothing.
func TestTenThousandEndpointsStayWithinBounds(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog")
		all := upTo(10000)
		before := s.answer(all...)
		if len(before) != 100 {
			t.Fatalf("the channel gets %d endpoints, want 100", len(before))
		}
		changes := 0
		for n := range 12 {
			left := address(all[n])
			updates := s.channel.updates()
			s.answer(all[n+1:]...)
			if changed := s.channel.updates() != updates; changed != slices.Contains(before, left) {
				t.Fatalf("%s has left and the channel was updated: %v, it had it: %v", left, changed, !changed)
			} else if changed {
				changes++
			}
			before = s.endpoints()
		}
		if changes > 6 {
			t.Errorf("12 changes among 10,000 updated a channel of 100 %d times", changes)
		}
	})
}

// forgetful keeps only the last state of a channel.
type forgetful struct{ recorder }

func (f *forgetful) UpdateState(s grpcresolver.State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.states = []grpcresolver.State{s}
	return nil
}

// R22: an endpoint keeps nothing alive of the answer that it came
// with, whether all have changed since or this one alone has not.
//
// Case R22
func TestAnswersOfThePastTakeNoMemory(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		d, cc := &scripted{}, &forgetful{}
		r := build(t, resolver.NewBuilder(d, resolver.WithLogger(silent), resolver.WithSubset(0)), "consul:///catalog", cc)
		defer r.Close()
		list := instances(upTo(n)...)
		d.report(catalog.Snapshot{Instances: list})
		before := heap()
		for i := range n {
			list = slices.Clone(list)
			list[i].Weight = 2
			d.report(catalog.Snapshot{Instances: list})
			synctest.Wait()
		}
		if mib := (heap() - before) / (1 << 20); mib > 8 {
			t.Errorf("%d changes of one instance each have left %.0f MiB behind", n, mib)
		}
	})
}

// A program that makes channels to ever other targets is remembered in part.
//
// Case R22
func TestClosedWatchesTakeBoundedMemory(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		d := &scripted{}
		builder := resolver.NewBuilder(d, resolver.WithLogger(silent))
		list := instances(upTo(300)...)
		before := heap()
		for n := range 3000 {
			r := build(t, builder, fmt.Sprint("consul:///catalog?tag=", n), &recorder{})
			d.report(catalog.Snapshot{Instances: slices.Clone(list)})
			synctest.Wait()
			r.Close()
		}
		if mib := (heap() - before) / (1 << 20); mib > 80 {
			t.Errorf("3,000 closed watches of 300 instances have left %.0f MiB behind", mib)
		}
		runtime.KeepAlive(builder)
	})
}

// R22, when half of 10,000 vanish for good.
//
// Case R22
func TestTheEndOfAMassRemovalTakesLittleMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog", resolver.WithMaxRemoval(0))
		s.answer(upTo(10000)...)
		s.answer(upTo(5000)...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		time.Sleep(16 * time.Second)
		s.endpoints()
		runtime.ReadMemStats(&after)
		if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 64 {
			t.Errorf("giving up 5,000 instances allocates %d MiB", mib)
		}
	})
}

// R22, in what does not depend on the machine: of 10,000 endpoints a channel connects to
// its subset and no more, and what one change costs does not grow with the endpoints that
// the channel has not chosen.
//
// Case R22
func TestAChangeOfTenThousandCostsWhatItsSubsetDoes(t *testing.T) {
	cost := func(n int) (allocations float64, mib float64) {
		conn := newSharedBackend(t).connect(t, n, resolver.WithLogger(silent))
		defer conn.Close()
		lists := [2][]catalog.Instance{snapshotOf(n), snapshotOf(n)}
		for i := range lists[1] {
			lists[1][i].Weight = 3
		}
		turn := 0
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const runs = 20
		allocations = testing.AllocsPerRun(runs, func() {
			turn++
			conn.change(lists[turn%2])
		})
		runtime.ReadMemStats(&after)
		return allocations, float64(after.TotalAlloc-before.TotalAlloc) / (runs + 1) / (1 << 20)
	}
	small, _ := cost(100)
	large, mib := cost(10_000)
	t.Logf("a change of 100 endpoints allocates %.0f times, one of 10,000 %.0f times and %.1f MiB", small, large, mib)
	if large > 1.5*small+200 || mib > 4 {
		t.Errorf("a change of 10,000 endpoints allocates %.0f times and %.1f MiB; one of 100, all of which are used, %.0f times", large, mib, small)
	}
}
