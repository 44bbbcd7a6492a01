package leastrequest_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var info = grpcbalancer.PickInfo{Ctx: context.Background()}

// A small set is looked at whole: calls that never end go to each in turn.
func TestSmallSetTakesTheTrueMinimum(t *testing.T) {
	c := balancertest.New(t, leastrequest.Name)
	c.Ready("{}", balancertest.Equal(16)...)
	counts := map[string]int{}
	for i := range 160 {
		result, err := c.Picker().Pick(info)
		if err != nil {
			t.Fatal(err)
		}
		counts[balancertest.AddressOf(result)]++
		if n := counts[balancertest.AddressOf(result)]; n > i/16+1 {
			t.Fatalf("pick %d: an endpoint has %d calls while another has fewer than %d", i, n, n-1)
		}
	}
}

func TestLoadFollowsTheWeights(t *testing.T) {
	c := balancertest.New(t, leastrequest.Name)
	c.Ready("{}", 1, 2, 5)
	counts := map[string]int{}
	for range 800 {
		result, err := c.Picker().Pick(info)
		if err != nil {
			t.Fatal(err)
		}
		counts[balancertest.AddressOf(result)]++
	}
	for i, want := range []int{100, 200, 500} {
		if got := counts[balancertest.Address(i)]; got < want-2 || got > want+2 {
			t.Errorf("endpoint %d has %d calls in flight, want %d", i, got, want)
		}
	}
}

// Case P15
func TestIdleEndpointsShareByWeight(t *testing.T) {
	c := balancertest.New(t, leastrequest.Name)
	c.Ready("{}", 1, 3)
	counts := map[string]int{}
	const picks = 40_000
	for range picks {
		result, err := c.Picker().Pick(info)
		if err != nil {
			t.Fatal(err)
		}
		counts[balancertest.AddressOf(result)]++
		result.Done(grpcbalancer.DoneInfo{})
	}
	// Six standard deviations of a binomial with p = 1/4.
	if got := counts[balancertest.Address(0)]; got < picks/4-520 || got > picks/4+520 {
		t.Errorf("the endpoint with a quarter of the weight got %d of %d picks", got, picks)
	}
}

// P13, in part: what a busy endpoint does not get is spread over all others.
//
// Case P13
func TestABusyEndpointBurdensNoNeighbour(t *testing.T) {
	c := balancertest.New(t, leastrequest.Name)
	c.Ready("{}", 1, 1, 1, 1, 1)
	busy, err := c.Picker().Pick(info)
	if err != nil {
		t.Fatal(err)
	}
	const picks = 80_000
	counts := map[string]int{}
	for range picks {
		result, err := c.Picker().Pick(info)
		if err != nil {
			t.Fatal(err)
		}
		counts[balancertest.AddressOf(result)]++
		result.Done(grpcbalancer.DoneInfo{})
	}
	for i := range 5 {
		address := balancertest.Address(i)
		if address == balancertest.AddressOf(busy) {
			continue
		}
		// Six standard deviations of a binomial with p = 1/4.
		if n := counts[address]; n < picks/4-740 || n > picks/4+740 {
			t.Errorf("%s got %d of %d picks, want a quarter", address, n, picks)
		}
	}
}

// P8: choices are distinct for n >= 2. With one idle endpoint among n busy ones
// and n-1 choices, an endpoint that is not the idle one is picked exactly when
// the idle one is left out; were a choice drawn twice, more often.
//
// Case P8: Choices are distinct; 1 and 0 endpoints do not panic.
func TestLargeSetDrawsDistinctEndpoints(t *testing.T) {
	const n, choices = 4, 3
	c := balancertest.New(t, leastrequest.Name)
	c.Ready(fmt.Sprintf(`{"fullScan": 1, "choiceCount": %d}`, choices), balancertest.Equal(n)...)
	idle := ""
	taken := map[string]int{}
	for len(taken) < n-1 { // make all but one busy, for good
		result, err := c.Picker().Pick(info)
		if err != nil {
			t.Fatal(err)
		}
		taken[balancertest.AddressOf(result)]++
	}
	for i := range n {
		if taken[balancertest.Address(i)] == 0 {
			idle = balancertest.Address(i)
		}
	}
	const picks = 40_000
	hits := 0
	for range picks {
		result, err := c.Picker().Pick(info)
		if err != nil {
			t.Fatal(err)
		}
		if balancertest.AddressOf(result) == idle {
			hits++
		}
		result.Done(grpcbalancer.DoneInfo{})
	}
	// Three distinct of four have the idle one 3 times in 4; three draws with
	// repetition 1 - (3/4)^3 = 0.58. Six standard deviations are 520.
	if want := picks * choices / n; hits < want-520 || hits > want+520 {
		t.Errorf("the idle endpoint was picked %d of %d times, want %d", hits, picks, want)
	}
}

func TestConfigIsChecked(t *testing.T) {
	balancertest.RefusesConfigs(t, leastrequest.Name, map[string]string{
		`{"choiceCount": 1}`:     "choiceCount 1 is not in 2 to 10",
		`{"choiceCount": 11}`:    "choiceCount 11 is not in 2 to 10",
		`{"fullScan": 0}`:        "fullScan 0 is not in 1 to 1024",
		`{"fullScan": 100000}`:   "fullScan 100000 is not in 1 to 1024",
		`{"choiceCount": "two"}`: "choiceCount",
		`[]`:                     "cannot unmarshal",
	})
}

// The picker is replaced while it is used: counters neither leak nor go below zero.
func TestPickerIsReplacedWhileInUse(t *testing.T) {
	c := balancertest.New(t, leastrequest.Name)
	c.Ready("{}", 1, 1, 1)
	picker := c.Picker()
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for range 10_000 {
				result, err := picker.Pick(info)
				if err != nil {
					t.Error(err)
					return
				}
				result.Done(grpcbalancer.DoneInfo{})
			}
		})
	}
	for i := range 200 {
		if err := c.Update("{}", uint32(i%5+1), 1, 1); err != nil {
			t.Error(err)
		}
	}
	wait.Wait()
	taken := map[string]bool{}
	for range 3 {
		result, err := c.Picker().Pick(info)
		if err != nil {
			t.Fatal(err)
		}
		taken[balancertest.AddressOf(result)] = true
	}
	if len(taken) != 3 {
		t.Errorf("three calls went to %v: a counter has not come back to 0", taken)
	}
}

// Case X10 (chain, balancer)
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{`{}`, `{"choiceCount": 3, "fullScan": 5}`, `{"choiceCount": -1}`, `null`, `[`, `{"fullScan": 1e99}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, config string) { balancertest.PicksIfAccepted(t, leastrequest.Name, config) })
}

func Example() {
	conn, err := grpc.NewClient("dns:///catalog.internal:8080",
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"`+leastrequest.Name+`": {}}]}`),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	fmt.Println(conn.Target())
	// Output: dns:///catalog.internal:8080
}

// Above the size that is looked at whole, load follows the weights too: of a few that
// are drawn by weight, the one with the least load for its weight is taken.
//
// Case P15
func TestLoadOfALargeSetFollowsTheWeights(t *testing.T) {
	c := balancertest.New(t, leastrequest.Name)
	weights := balancertest.Equal(20)
	for i := range 10 {
		weights[i] = 4
	}
	c.Ready("{}", weights...)
	counts := map[string]int{}
	for range 50 * 100 { // 100 for each unit of weight
		result, err := c.Picker().Pick(info)
		if err != nil {
			t.Fatal(err)
		}
		counts[balancertest.AddressOf(result)]++
	}
	for i, weight := range weights {
		if got, want := counts[balancertest.Address(i)], int(100*weight); got < want*9/10 || got > want*11/10 {
			t.Errorf("endpoint %d of weight %d has %d calls in flight, want about %d", i, weight, got, want)
		}
	}
}
