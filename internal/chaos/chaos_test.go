package chaos

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/internal/hosts"
	"github.com/meshlite-go/meshlite/internal/shop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEveryRowIsComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rows() {
		if r.name == "" || r.does == "" || r.wanted == "" || r.inject == nil || r.healed == nil || r.aim.heal <= 0 || seen[r.name] {
			t.Errorf("row %q lacks something or is there twice", r.name)
		}
		if r.lastsShort > r.lasts || (r.lasts > 0) != (r.lastsShort > 0) {
			t.Errorf("row %q lasts %v, and %v when short", r.name, r.lasts, r.lastsShort)
		}
		seen[r.name] = true
	}
}

func TestWhichFaultsAreMade(t *testing.T) {
	all, _ := choose(false, nil)
	short, _ := choose(true, nil)
	if len(all) != len(rows()) || len(short) == 0 || len(short) >= len(all) {
		t.Errorf("%d of %d faults are made, and %d in short", len(all), len(rows()), len(short))
	}
	named, err := choose(true, []string{"rolling-restart", "consul-stalled"})
	if err != nil || len(named) != 2 || named[0].name != "rolling-restart" {
		t.Errorf("got %v, %v, want the two in their order", named, err)
	}
}

func TestUnknownFaultIsRefusedBeforeAnythingStarts(t *testing.T) {
	_, err := Run(t.Context(), Options{Only: []string{"consul-forzen"}})
	if err == nil || !strings.HasPrefix(err.Error(), `fault "consul-forzen" is not known: write consul-restarted, `) {
		t.Errorf("got %v, want the names of the faults", err)
	}
}

// A call that was sent to an instance before it ended could not be saved; one that
// was sent later could.
func TestWhatWasInFlightIsCountedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tally := newTally()
		before := time.Now()
		time.Sleep(time.Second)
		ended := time.Now()
		time.Sleep(time.Second)
		gone := status.Error(codes.Unavailable, "gone")
		tally.done(call{due: before, sent: before, instance: "victim", err: gone})
		tally.done(call{due: before, sent: before, instance: "other", err: gone})
		tally.done(call{due: ended, sent: time.Now(), instance: "victim", err: gone})
		tally.done(call{due: time.Now(), sent: time.Now(), instance: "other"})
		if n := tally.inFlight("victim", ended); n != 1 {
			t.Errorf("%d failed calls were in flight, want 1", n)
		}
		if got, want := tally.read(), (figures{calls: 4, failed: 3, late: 1, worst: 2 * time.Second}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if tally.answers("victim", time.Time{}) || !tally.answers("other", ended) || tally.answers("other", time.Now()) {
			t.Error("the tally does not know who has answered since when")
		}
	})
}

func TestMemoryOfFailuresIsBounded(t *testing.T) {
	tally := newTally()
	for i := range 2 * maxFailures {
		tally.done(call{err: status.Errorf(codes.Internal, "reason %d", i)})
	}
	if len(tally.reasons) != maxReasons || len(tally.failures) != maxFailures {
		t.Errorf("%d reasons and %d failures are kept", len(tally.reasons), len(tally.failures))
	}
}

// judged is what a scene with these figures is judged to be.
func judged(a aim, f figures, took time.Duration, err error) Fault {
	s := &scene{mesh: &mesh{}, row: row{name: "one", does: "something", wanted: "all is well", aim: a}}
	seen := newTally()
	seen.figures = f
	return s.judge(seen, took, err, nil)
}

func TestAimsAreJudged(t *testing.T) {
	for name, test := range map[string]struct {
		aim     aim
		figures figures
		took    time.Duration
		err     error
		missed  string // joined
	}{
		"all well":      {aim{heal: time.Second}, figures{calls: 100}, time.Second, nil, ""},
		"failed":        {aim{heal: time.Second}, figures{calls: 100, failed: 2}, 0, nil, "2 calls failed"},
		"not in flight": {aim{heal: time.Second, inFlight: true}, figures{calls: 100, failed: 2}, 0, nil, "2 calls failed that were not in flight there"},
		"slow":          {aim{heal: time.Second}, figures{calls: 100}, 2 * time.Second, nil, "it took 2.0s until: all is well"},
		"error":         {aim{heal: time.Second}, figures{calls: 100}, 0, errors.New("it broke"), "it broke"},
		"no calls":      {aim{heal: time.Second}, figures{}, 0, nil, "no call was sent"},
		"busy": {aim{heal: time.Second}, figures{calls: 100, failed: 1, late: 50}, 0, nil,
			"1 calls failed; this machine was too busy: 50 of 100 calls could not be sent when they were due"},
	} {
		t.Run(name, func(t *testing.T) {
			f := judged(test.aim, test.figures, test.took, test.err)
			if got := strings.Join(f.Missed, "; "); got != test.missed {
				t.Errorf("missed is %q, want %q", got, test.missed)
			}
		})
	}
}

func TestTableNamesWhatWasMissed(t *testing.T) {
	good := judged(aim{heal: time.Second}, figures{calls: 100, worst: 5 * time.Millisecond}, 500*time.Millisecond, nil)
	good.Figures = "moved after 6 ms"
	bad := judged(aim{heal: 3 * time.Second, inFlight: true}, figures{calls: 100, failed: 1}, 0, nil)
	bad.Failed, bad.InFlight, bad.Name, bad.reasons = 3, 2, "two", map[string]uint64{"Unavailable: gone": 3}
	result := &Result{Registry: "consul 1.2.3", Rate: 300, Faults: []Fault{good, bad}, trouble: "level=WARN"}
	var table strings.Builder
	if err := result.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	const want = `
consul 1.2.3, 3 instances, 300 calls a second, no retries

  FAULT  CALLS  FAILED           WORST CALL  TIME TO HEAL  AIM
✓ one    100    0                5 ms        0.5 s         0 failed, healed within 1s
✗ two    100    3 (2 in flight)  0 ms        0.0 s         only what was in flight there failed, healed within 3s

one: moved after 6 ms

two: something
  missed: 1 calls failed that were not in flight there
  failed 3 times: Unavailable: gone

the client library has logged:
level=WARN
`
	if table.String() != want {
		t.Errorf("got %s\nwant %s", table.String(), want)
	}
	if missed := result.Missed(); len(missed) != 1 || missed[0] != "two: 1 calls failed that were not in flight there" {
		t.Errorf("missed is %q", missed)
	}
}

// What could not be made is neither reached nor missed, and nobody overlooks it.
func TestSkippedFaultsAreNamed(t *testing.T) {
	skipped := Fault{Name: "far-away", Missed: []string{}, Skipped: "this is user 1000"}
	result := &Result{Registry: "consul 1.2.3", Rate: 300, Faults: []Fault{skipped}}
	var table strings.Builder
	if err := result.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^- far-away +SKIPPED +this is user 1000$`).MatchString(table.String()) || len(result.Missed()) != 0 {
		t.Errorf("missed is %q, and the table\n%s", result.Missed(), table.String())
	}
}

// Calls have moved when the new arm answers and the old one has not for a while.
func TestWhenCallsHaveMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scene{customer: &customer{tally: newTally()}, to: two,
			arms: arms{one: {{ID: "a", Address: "a"}}, two: {{ID: "b", Address: "b"}}}}
		answered := func(instance string) {
			s.customer.tally.done(call{due: time.Now(), sent: time.Now(), instance: instance})
		}
		expect := func(when string, want bool) {
			t.Helper()
			if got := shifted(t.Context(), s); got != want {
				t.Errorf("%s: moved is %t", when, got)
			}
		}
		time.Sleep(time.Second)
		answered("a")
		expect("before", false)
		time.Sleep(moved / 2)
		answered("b")
		expect("while both answer", false)
		time.Sleep(moved / 2)
		expect("when the old arm was silent for long enough", true)
		time.Sleep(moved)
		expect("when nobody answers", false)
	})
}

// No call may fail once the wanted state is reached, however many may before.
func TestFailuresAfterAllIsWellAreMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scene{mesh: &mesh{}, row: row{wanted: "all is well", aim: aim{heal: time.Second, failed: 5, quiet: true}}}
		seen := newTally()
		failing := call{due: time.Now(), sent: time.Now(), err: status.Error(codes.Internal, "out of order")}
		seen.done(failing)
		time.Sleep(time.Second)
		s.healedAt = time.Now()
		if f := s.judge(seen, 0); len(f.Missed) != 0 {
			t.Errorf("a call that failed before counts: %q", f.Missed)
		}
		time.Sleep(time.Second)
		failing.due, failing.sent = time.Now(), time.Now()
		seen.done(failing)
		if f := s.judge(seen, 0); len(f.Missed) != 1 || f.Missed[0] != "1 calls failed after: all is well" {
			t.Errorf("missed is %q", f.Missed)
		}
	})
}

// Calls that move away in steps and back have turned once.
func TestTurnsAreCounted(t *testing.T) {
	for _, test := range []struct {
		values       []float64
		moves, turns int
	}{
		{[]float64{0, 0, 0}, 0, 0},
		{[]float64{0.4, 1, 1, 0.4, 0}, 4, 1},
		{[]float64{1, 0, 1, 0}, 4, 3},
	} {
		w := &swings{}
		for _, v := range test.values {
			w.take(v)
		}
		if moves, turns := w.read(); moves != test.moves || turns != test.turns {
			t.Errorf("%v: %d moves and %d turns, want %d and %d", test.values, moves, turns, test.moves, test.turns)
		}
	}
}

// One instance of a whole mesh is far, whichever was stopped.
func TestOneInstanceIsFar(t *testing.T) {
	s := &site{hosts: []*hosts.Host{{}, {}, {}, {}}}
	var living []*shop.Instance
	start := func() *hosts.Host {
		living = append(living, &shop.Instance{Host: s.next(living)})
		return living[len(living)-1].Host
	}
	for n, want := range []*hosts.Host{s.near(), s.near(), s.far(), s.near()} {
		if got := start(); got != want {
			t.Errorf("instance %d of a new mesh is on %p, want %p", n, got, want)
		}
	}
	living = living[2:]
	if start() != s.near() {
		t.Error("a second instance is far")
	}
	living = living[1:]
	if start() != s.far() {
		t.Error("none is far, and the one that completes the mesh is near")
	}
	if (*site)(nil).next(living) != nil {
		t.Error("an instance of this machine has a host")
	}
}

func ExampleFaults() {
	for _, f := range Faults()[:2] {
		fmt.Printf("%s: %s\n", f.Name, f.Does)
	}
	// Output:
	// consul-restarted: Consul is killed and started empty, twice
	// consul-stalled: Consul is stopped in its tracks by SIGSTOP, and goes on
}
