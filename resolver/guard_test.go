package resolver_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// instances are numbered by their address.
func instances(numbers ...int) []catalog.Instance {
	var list []catalog.Instance
	for _, n := range numbers {
		list = append(list, catalog.Instance{ID: fmt.Sprint(n), Address: address(n), Weight: 1})
	}
	slices.SortFunc(list, func(a, b catalog.Instance) int { return strings.Compare(a.Address, b.Address) })
	return list
}

func address(n int) string { return fmt.Sprintf("10.0.%d.%d:80", n/256, n%256) }

func upTo(n int) []int {
	var all []int
	for i := range n {
		all = append(all, i)
	}
	return all
}

// scene is a resolver between a scripted directory and a recording channel.
type scene struct {
	directory *scripted
	channel   *recorder
	builder   *resolver.Builder
}

func newScene(t *testing.T, target string, opts ...resolver.Option) *scene {
	s := &scene{directory: &scripted{}, channel: &recorder{}}
	s.builder = resolver.NewBuilder(s.directory, append([]resolver.Option{resolver.WithLogger(silent)}, opts...)...)
	r := build(t, s.builder, target, s.channel)
	t.Cleanup(r.Close)
	return s
}

// answer lets the directory answer, and returns the endpoints of the channel.
func (s *scene) answer(numbers ...int) []string {
	s.directory.report(catalog.Snapshot{Instances: instances(numbers...), Time: time.Now()})
	return s.endpoints()
}

func (s *scene) endpoints() []string {
	synctest.Wait()
	return strings.Fields(s.channel.addresses())
}

// R7: if more than a configured share of instances vanish in one answer, the rest
// of the removal waits for the grace time.
//
// Case R7: A mass removal waits for a second read and the grace time.
func TestMassRemovalWaitsForTheGraceTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog")
		s.answer(upTo(10)...)
		if n := len(s.answer(3, 4)); n != 5 {
			t.Errorf("%d endpoints after 8 of 10 have vanished, want 5: one answer may take half of them", n)
		}
		if n := s.builder.Stats()[0].Held; n != 3 {
			t.Errorf("the statistics report %d held instances, want 3", n)
		}
		time.Sleep(14 * time.Second)
		if n := len(s.answer(3, 4)); n != 5 {
			t.Errorf("%d endpoints within the grace time, want 5", n)
		}
		time.Sleep(2 * time.Second)
		if got := s.endpoints(); !slices.Equal(got, []string{address(3), address(4)}) {
			t.Errorf("after the grace time the endpoints are %v, want those of the last answer", got)
		}
		if n := s.builder.Stats()[0].Held; n != 0 {
			t.Errorf("the statistics report %d held instances, want none", n)
		}
	})
}

// Deregistrations that come one at a time are a mass removal, too.
//
// Case R7
func TestRemovalsOneAfterTheOtherAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog")
		s.answer(1, 2, 3, 4)
		s.answer(1, 2, 3)
		s.answer(1, 2)
		if n := len(s.answer(1)); n != 2 {
			t.Errorf("%d endpoints after three of four have left one by one, want half of them", n)
		}
		time.Sleep(16 * time.Second)
		if n := len(s.endpoints()); n != 1 {
			t.Errorf("%d endpoints after the grace time, want the one that is left", n)
		}
	})
}

// A rolling restart is no mass removal: what leaves is replaced.
//
// Case R7
func TestRollingRestartHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog")
		s.answer(1, 2, 3)
		for _, list := range [][]int{{2, 3}, {2, 3, 4}, {3, 4}, {3, 4, 5}, {4, 5}, {4, 5, 6}} {
			if n := len(s.answer(list...)); n != len(list) {
				t.Errorf("%d endpoints after the answer %v", n, list)
			}
			time.Sleep(time.Second)
		}
	})
}

// After a restart, an agent gets the instances back one by one.
//
// Case R7
func TestAfterAnOutageNoneVanishesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog")
		s.answer(1, 2, 3)
		s.directory.fail(errors.New("refused"))
		for _, list := range [][]int{{1}, {1, 3}, {1, 2, 3}} {
			if n := len(s.answer(list...)); n != 3 {
				t.Errorf("%d endpoints after the answer %v, want all three", n, list)
			}
			time.Sleep(2 * time.Second)
		}
		if n := s.channel.updates(); n != 1 {
			t.Errorf("the channel was updated %d times, want once: nothing has changed", n)
		}
	})
}

// R6, with an agent that fails every other query: what is removed is believed at
// last, though the grace time begins anew after a failure.
//
// Case R6
func TestRemovalIsBelievedOfAnAgentThatKeepsFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog")
		s.answer(1, 2)
		for range 12 { // a minute
			s.directory.fail(errors.New("reset"))
			time.Sleep(2 * time.Second)
			s.answer(1)
			time.Sleep(3 * time.Second)
		}
		if got := s.endpoints(); !slices.Equal(got, []string{address(1)}) {
			t.Errorf("endpoints are %v after twelve answers without the other", got)
		}
	})
}

func TestHeldInstancesThatComeBackStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog", resolver.WithMaxRemoval(0))
		s.answer(1, 2, 3, 4)
		s.answer(1)
		time.Sleep(10 * time.Second)
		s.answer(1, 2)
		time.Sleep(6 * time.Second)
		if got := s.endpoints(); !slices.Equal(got, []string{address(1), address(2)}) {
			t.Errorf("endpoints are %v, want the one that stayed and the one that came back", got)
		}
	})
}

func TestSmallRemovalsAreBelievedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog")
		s.answer(upTo(10)...)
		if n := len(s.answer(upTo(5)...)); n != 5 {
			t.Errorf("%d endpoints after half of ten have left, want 5", n)
		}
		s.answer(1, 2)
		s.answer(1, 2)
		time.Sleep(time.Minute)
		if got := s.answer(1); !slices.Equal(got, []string{address(1)}) {
			t.Errorf("endpoints are %v after one of two has left, want the other", got)
		}
	})
}

func TestMaxRemovalOfOneBelievesAllButEmptiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog", resolver.WithMaxRemoval(1))
		s.answer(upTo(10)...)
		if n := len(s.answer(7)); n != 1 {
			t.Errorf("%d endpoints, want the one of the answer", n)
		}
		if n := len(s.answer()); n != 1 {
			t.Errorf("%d endpoints after an empty answer, want the last one held", n)
		}
	})
}

func TestWrongSettingsAreErrorsOfBuild(t *testing.T) {
	for want, option := range map[string]resolver.Option{
		"WithMaxRemoval": resolver.WithMaxRemoval(1.5), "WithGrace": resolver.WithGrace(-1),
		"WithSubset": resolver.WithSubset(-1), "WithStartTimeout": resolver.WithStartTimeout(0),
	} {
		conn, err := dialLazily(resolver.NewBuilder(&scripted{}, option))
		if err != nil {
			t.Fatal(err)
		}
		if err := call(conn); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the first call answers %v, want an error that names the option", want, err)
		}
		conn.Close()
	}
}

// The guard under many sequences of answers, failures and pauses.
//
// Case R7
func TestGuardNeverLies(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{random: rand.New(rand.NewPCG(seed, 0)), vanished: map[string]time.Time{}}
			w.scene = newScene(t, "consul:///catalog", resolver.WithGrace(worldGrace), resolver.WithMaxRemoval(0.5))
			for step := range 40 {
				if wrong := w.step(); wrong != "" {
					t.Fatalf("seed %d, step %d: %s", seed, step, wrong)
				}
			}
		})
	}
}

const worldGrace = 10 * time.Second

// world is a scene with what a guard must keep to.
type world struct {
	*scene
	random   *rand.Rand
	last     []string             // of the last answer
	outage   bool                 // it has failed since
	vanished map[string]time.Time // since when the answers lack an address
}

// step lets something happen, and says what is wrong then.
func (w *world) step() string {
	switch w.random.IntN(5) {
	case 0:
		time.Sleep(time.Duration(1+w.random.IntN(12)) * time.Second)
	case 1:
		w.directory.fail(errors.New("refused"))
		w.outage = true
	default:
		if wrong := w.checkAnswer(w.random.Perm(12)[:w.random.IntN(13)]); wrong != "" {
			return wrong
		}
	}
	after := w.endpoints()
	for _, a := range w.last {
		if !slices.Contains(after, a) {
			return fmt.Sprintf("%s is in the last answer and not in %v", a, after)
		}
	}
	for _, a := range after {
		since, gone := w.vanished[a]
		if gone && !w.outage && time.Since(since) >= worldGrace {
			return fmt.Sprintf("%s has been gone for %v and is still called", a, time.Since(since))
		}
	}
	return ""
}

// checkAnswer lets the directory answer: an answer may remove half of the last one, and never everything.
func (w *world) checkAnswer(numbers []int) string {
	before, outage := w.endpoints(), w.outage
	after := w.answer(numbers...)
	now := addressesOf(instances(numbers...))
	lost := 0
	for _, a := range w.last {
		if slices.Contains(before, a) && !slices.Contains(after, a) {
			lost++
		}
	}
	switch {
	case 2*lost > len(w.last), outage && lost > 0:
		return fmt.Sprintf("one answer took %d of %d", lost, len(w.last))
	case len(before) > 0 && len(after) == 0:
		return fmt.Sprintf("one answer took all of %v", before)
	}
	for _, a := range before {
		if _, known := w.vanished[a]; !known || w.outage {
			w.vanished[a] = time.Now()
		}
	}
	for _, a := range now {
		delete(w.vanished, a)
	}
	w.last, w.outage = now, false
	return ""
}

func addressesOf(list []catalog.Instance) []string {
	var all []string
	for _, i := range list {
		all = append(all, i.Address)
	}
	return all
}

// F7: health flapping every 100 ms for 60 s: 0 failed, no reconnect of unchanged
// endpoints.
//
// Case F7: Flapping health fails no call and reconnects no neighbour.
func TestFlappingHealthFailsNoCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		for n := range 3 {
			m.start(n + 1)
		}
		conn := m.connect()
		defer conn.Close()
		mustCall(t, conn, 30)
		for turn := range 600 {
			status := consultest.HealthCritical
			if turn%2 == 1 {
				status = consultest.HealthPassing
			}
			if err := m.agent.SetStatus("catalog-2", status); err != nil {
				t.Fatal(err)
			}
			for range 10 {
				time.Sleep(10 * time.Millisecond)
				mustCall(t, conn, 1)
			}
		}
		for _, n := range []int{1, 3} {
			if conns := m.connections(n); conns != 1 {
				t.Errorf("backend %d had %d connections, want the one from the start", n, conns)
			}
		}
		if n := len(m.agent.Queries()); n > 700 {
			t.Errorf("%d queries in a minute of flapping", n)
		}
	})
}

// R21: from Consul's answer to the picker nothing waits, here with 1,000 instances.
// BenchmarkChangeOfManyEndpoints measures the cost.
//
// Case R21: Nothing waits between the answer and the picker.
func TestAChangeReachesTheChannelAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog", resolver.WithSubset(0))
		s.answer(upTo(1000)...)
		start := time.Now()
		if n := len(s.answer(upTo(1001)...)); n != 1001 || !time.Now().Equal(start) {
			t.Errorf("the channel has %d endpoints after %v, want 1001 at once", n, time.Since(start))
		}
	})
}

// Tags, metadata and locality reach the policies as attributes of the endpoint.
func TestPoliciesSeeTheAttributesOfAnInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog")
		want := catalog.Instance{
			ID: "1", Address: address(1), Weight: 7, Node: "n", Datacenter: "dc1", Status: catalog.Warning,
			Tags: []string{"fast"}, Metadata: map[string]string{"version": "2"}, Region: "r", Zone: "z",
		}
		s.directory.report(catalog.Snapshot{Instances: []catalog.Instance{want}})
		synctest.Wait()
		if got := balancer.InstanceOf(s.channel.last().Endpoints[0]); got == nil || !got.Equal(want) {
			t.Errorf("the endpoint has %+v, want %+v", got, want)
		}
	})
}

// Instances that are held count as being there: while enough are, a removal that is
// small compared to the last answer is believed at once.
//
// Case R7
func TestHeldInstancesAreEnoughToBelieveASmallRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog")
		s.answer(upTo(10)...)
		if n := len(s.answer(0)); n != 5 {
			t.Fatalf("%d endpoints after nine of ten have left, want half of them", n)
		}
		s.answer(0, 10, 11)
		if got := s.answer(0, 10); len(got) != 6 || slices.Contains(got, address(11)) {
			t.Errorf("endpoints are %v, want the two of the answer and the four that are held", got)
		}
	})
}

// The grace time of what is missing begins anew after three failures, and not after more.
//
// Case R6
func TestTheGraceTimeIsRenewedThreeTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog")
		s.answer(1, 2)
		for second := 0; second < 45; second += 5 { // renewed at 5, 10 and 15 s
			s.directory.fail(errors.New("reset"))
			n := len(s.answer(1))
			if want := map[bool]int{true: 2, false: 1}[second < 30]; n != want {
				t.Errorf("%d endpoints after %d s, want %d", n, second, want)
			}
			time.Sleep(5 * time.Second)
		}
	})
}

// A removal is measured by the most that was there within the grace time, which begins
// anew with each answer that has as many.
//
// Case R7
func TestThePeakLastsForTheGraceTimeFromItsLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog")
		for range 15 {
			s.answer(upTo(10)...)
			time.Sleep(time.Second)
		}
		s.answer(upTo(5)...)
		time.Sleep(2 * time.Second)
		if n := len(s.answer(upTo(3)...)); n != 5 {
			t.Errorf("%d endpoints after seven of ten have left within 2 s, want half of them", n)
		}
	})
}
