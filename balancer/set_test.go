package balancer_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/balancertest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// The choice of an endpoint does not depend on gRPC: only these files connect it with channels.
func TestTheChoiceDoesNotDependOnGRPC(t *testing.T) {
	connecting := []string{"channel.go", "picker.go", "attributes.go"}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < len(connecting) {
		t.Fatal(files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || slices.Contains(connecting, name) {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range file.Imports {
			if strings.Contains(i.Path.Value, "google.golang.org/") {
				t.Errorf("%s imports %s", name, i.Path.Value)
			}
		}
	}
}

// newSet is a set of n equal instances, in a synctest bubble.
func newSet(t *testing.T, policy, config string, n int) *balancer.Set {
	t.Helper()
	set, err := balancer.NewSet(balancer.NewTable(), policy, json.RawMessage(config))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(set.Close)
	set.Update(instances(n))
	return set
}

func instances(n int) []catalog.Instance {
	var list []catalog.Instance
	for _, i := range balancertest.Instances(balancertest.Equal(n)...) {
		list = append(list, *i)
	}
	return list
}

// use makes calls, a hundred a second, each of a millisecond, and counts them by address.
func use(t *testing.T, set *balancer.Set, calls int, outcome func(address string) balancer.Outcome) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for range calls {
		choice, err := set.Choose(nil, "GET")
		if err != nil {
			t.Fatal(err)
		}
		address := choice.Instance().Address
		counts[address]++
		time.Sleep(time.Millisecond)
		choice.Done(balancer.Result{Outcome: outcome(address), End: attempt.Over})
		time.Sleep(9 * time.Millisecond)
	}
	return counts
}

func allWell(string) balancer.Outcome { return balancer.Succeeded }

func TestASetSharesByEachPolicy(t *testing.T) {
	for _, policy := range []string{"round_robin", "meshlite_least_request", "peak_ewma"} {
		t.Run(policy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				counts := use(t, newSet(t, policy, "", 4), 4000, allWell)
				for address, n := range counts {
					if n < 850 || n > 1150 || policy == "round_robin" && n != 1000 {
						t.Errorf("%s has %d of 4000 calls", address, n)
					}
				}
				if len(counts) != 4 {
					t.Errorf("calls went to %v, want 4 endpoints", counts)
				}
			})
		})
	}
}

func TestASetEjectsProbesAndReadmits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, "round_robin", `{"slowStart": {"window": "0s"}}`, 4)
		bad := balancertest.Address(0)
		fails := func(address string) balancer.Outcome {
			if address == bad {
				return balancer.Failed
			}
			return balancer.Succeeded
		}
		if n := use(t, set, 900, fails)[bad]; n < 5 || n > 6 {
			t.Errorf("the failing endpoint had %d calls, want 5 and a probe at most", n)
		}
		time.Sleep(time.Minute)
		if n := use(t, set, 400, allWell)[bad]; n < 99 || n > 101 {
			t.Errorf("the endpoint that works again has %d of 400 calls, want its share", n)
		}
	})
}

func TestASetLeavesUnreachableEndpointsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, "round_robin", "", 2)
		away := balancertest.Address(1)
		set.SetReachable(away, false)
		if n := use(t, set, 100, allWell)[away]; n != 0 {
			t.Errorf("the unreachable endpoint has %d calls", n)
		}
		set.SetReachable(balancertest.Address(0), false)
		if _, err := set.Choose(nil, "GET"); !errors.Is(err, balancer.ErrNoEndpoint) {
			t.Errorf("with no endpoint: %v, want ErrNoEndpoint", err)
		}
		set.SetReachable(balancertest.Address(0), true)
		time.Sleep(time.Minute)
		use(t, set, 1, allWell)
		time.Sleep(time.Minute) // after its slow start
		set.SetReachable(away, true)
		if n := use(t, set, 300, allWell)[away]; n == 0 || n > 75 {
			t.Errorf("the endpoint that is back has %d of its first 300 calls, want a slow start", n)
		}
		time.Sleep(time.Minute)
		if n := use(t, set, 300, allWell)[away]; n != 150 {
			t.Errorf("it has %d of 300 calls later, want half", n)
		}
		set.Update(instances(1)) // it leaves while it is unreachable, and returns
		set.Update(instances(2))
		if stats := set.Table().Stats().Endpoints; len(stats) != 2 || stats[1].State != balancer.SlowStarted {
			t.Errorf("an endpoint that is listed anew is %+v, want a slow start", stats)
		}
	})
}

func TestARetryGoesToAnUntriedEndpointOfASet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, "least_request", "", 3)
		for range 50 {
			tried := map[string]bool{}
			record := attempt.New()
			for range 3 {
				choice, err := set.Choose(record, "GET")
				if err != nil {
					t.Fatal(err)
				}
				tried[choice.Instance().Address] = true
				choice.Done(balancer.Result{Outcome: balancer.Refused})
				record = record.Next()
			}
			if len(tried) != 3 {
				t.Fatalf("three attempts went to %v", tried)
			}
		}
	})
}

// An endpoint that answers no more is stalled; one that sends long bodies is not.
func TestASetFindsStalledEndpointsAndNotLongBodies(t *testing.T) {
	for _, responds := range []bool{false, true} {
		t.Run(fmt.Sprint(responds), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				set := newSet(t, "peak_ewma", `{"slowStart": {"window": "0s"}}`, 2)
				use(t, set, 100, allWell)
				slow, counts := balancertest.Address(0), map[string]int{}
				var open []*balancer.Choice
				for range 40 {
					choice, err := set.Choose(nil, "GET")
					if err != nil {
						t.Fatal(err)
					}
					counts[choice.Instance().Address]++
					time.Sleep(time.Millisecond)
					switch {
					case choice.Instance().Address != slow:
						choice.Done(balancer.Result{Outcome: balancer.Succeeded})
					case responds:
						choice.Responded()
						fallthrough
					default:
						open = append(open, choice)
					}
					time.Sleep(19 * time.Millisecond)
				}
				stats := set.Table().Stats().Endpoints[0]
				if stats.InFlight != int64(len(open)) || counts[slow] == 0 {
					t.Errorf("%d in flight, want %d, of %v", stats.InFlight, len(open), counts)
				}
				if !responds && counts[slow] > 6 {
					t.Errorf("calls went to %v, the first of which is stalled", counts)
				}
				for _, choice := range open {
					choice.Done(balancer.Result{Outcome: balancer.Succeeded})
				}
				if n := set.Table().Stats().Endpoints[0].InFlight; n != 0 {
					t.Errorf("%d in flight at the end", n)
				}
			})
		})
	}
}

func TestASetStaysInItsZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, "round_robin", `{"zone": {"callers": 0.5}}`, 0)
		list := instances(4)
		for i := range list {
			list[i].Zone = []string{"a", "b"}[i%2]
		}
		set.SetZone("", "b")
		set.Update(list)
		counts := use(t, set, 400, allWell)
		if counts[list[1].Address] != 200 || counts[list[3].Address] != 200 {
			t.Errorf("calls from zone b went to %v", counts)
		}
	})
}

func TestASetIsChecked(t *testing.T) {
	for config, want := range map[string]string{
		`{"ejection": {"interval": "1ms"}}`: "ejection.interval",
		`{"fullScan": 0}`:                   "fullScan 0",
		`[]`:                                "array",
	} {
		if _, err := balancer.NewSet(balancer.NewTable(), "least_request", json.RawMessage(config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", config, err, want)
		}
	}
	if _, err := balancer.NewSet(balancer.NewTable(), "grpc:ring_hash", nil); err == nil || !strings.Contains(err.Error(), "least_request, peak_ewma, round_robin") {
		t.Errorf("a policy of gRPC: %v", err)
	}
	set := newSet(t, "round_robin", "", 2)
	set.Close()
	set.Update(instances(2))
	if _, err := set.Choose(nil, "GET"); !errors.Is(err, balancer.ErrNoEndpoint) {
		t.Errorf("a closed set: %v", err)
	}
}

func ExampleSet() {
	set, err := balancer.NewSet(balancer.NewTable(), "round_robin", nil)
	if err != nil {
		panic(err)
	}
	defer set.Close()
	set.Update([]catalog.Instance{{ID: "web-1", Address: "10.0.0.1:80"}, {ID: "web-2", Address: "10.0.0.2:80"}})

	record := attempt.New()
	first, _ := set.Choose(record, "GET")
	first.Done(balancer.Result{Outcome: balancer.Failed, End: attempt.Over | attempt.Sent})
	second, _ := set.Choose(record.Next(), "GET") // never the one that was tried
	second.Done(balancer.Result{Outcome: balancer.Succeeded, End: attempt.Over | attempt.Sent | attempt.Received})
	fmt.Println(first.Instance().ID != second.Instance().ID)
	// Output: true
}
