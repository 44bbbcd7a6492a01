package peakewma_test

import (
	"context"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/peakewma"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	info    = grpcbalancer.PickInfo{FullMethodName: "/grpc.health.v1.Health/Check", Ctx: context.Background()}
	success = grpcbalancer.DoneInfo{BytesSent: true, BytesReceived: true}
)

// inTime runs test in virtual time over endpoints of these weights.
func inTime(t *testing.T, test func(t *testing.T, c *balancertest.Channel), weights ...uint32) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := balancertest.New(t, peakewma.Name)
		c.Ready("{}", weights...)
		test(t, c)
		c.Policy.Close()
	})
}

func pick(t *testing.T, c *balancertest.Channel) (int, func(grpcbalancer.DoneInfo)) {
	t.Helper()
	result, err := c.Picker().Pick(info)
	if err != nil {
		t.Fatal(err)
	}
	return balancertest.IndexOf(result), result.Done
}

// calls are made one after the other; each takes as long as its endpoint does.
func calls(t *testing.T, c *balancertest.Channel, n int, takes ...time.Duration) []int {
	t.Helper()
	counts := make([]int, len(takes))
	for range n {
		i, done := pick(t, c)
		time.Sleep(takes[i])
		done(success)
		counts[i]++
	}
	return counts
}

const ms = time.Millisecond

// Case P7: Who is not used is tried again; who is stalled loses traffic at once.
func TestTheSlowOneGetsACallNowAndThen(t *testing.T) {
	inTime(t, func(t *testing.T, c *balancertest.Channel) {
		calls(t, c, 100, ms, ms, 100*ms)
		// 25,000 calls of 1 ms and a few of 100 ms: some 25 s. P7: An unused backend is
		// tried again within the decay time.
		counts := calls(t, c, 25_000, ms, ms, 100*ms)
		if counts[2] < 2 || counts[2] > 5 {
			t.Errorf("calls went to %v, want two to five to the slow one", counts)
		}
		// It has recovered: found out with the next call that it gets, and believed.
		calls(t, c, 60_000, ms, ms, ms)
		if counts := calls(t, c, 9000, ms, ms, ms); counts[2] < 1500 {
			t.Errorf("calls went to %v after the slow one has recovered", counts)
		}
	}, 1, 1, 1)
}

// P7: A stalled backend with calls in flight loses traffic before its first reply.
//
// Case P7
func TestAStalledOneLosesTrafficBeforeItReplies(t *testing.T) {
	inTime(t, func(t *testing.T, c *balancertest.Channel) {
		calls(t, c, 300, ms, ms, ms)
		stalled := 0
		for range 1000 { // a second, in which 333 would be its share
			i, done := pick(t, c)
			time.Sleep(ms)
			if i == 2 {
				stalled++ // and never done
			} else {
				done(success)
			}
		}
		if stalled > 5 {
			t.Errorf("%d calls went to the stalled endpoint", stalled)
		}
	}, 1, 1, 1)
}

// P15: Weighted shares match the weights.
//
// Case P15
func TestIdleEndpointsShareByWeight(t *testing.T) {
	inTime(t, func(t *testing.T, c *balancertest.Channel) {
		const n = 40_000
		counts := calls(t, c, n, ms, ms, ms)
		for i, want := range []float64{.1, .2, .7} {
			// Six standard deviations of a binomial.
			if got := float64(counts[i]) / n; math.Abs(got-want) > 6*math.Sqrt(want*(1-want)/n) {
				t.Errorf("endpoint %d has %.3f of the calls, want %.1f", i, got, want)
			}
		}
	}, 1, 2, 7)
}

// Of many endpoints a few are compared, and the slow one still loses.
//
// Case P13
func TestOfManyAFewAreCompared(t *testing.T) {
	weights := balancertest.Equal(50)
	inTime(t, func(t *testing.T, c *balancertest.Channel) {
		takes := make([]time.Duration, len(weights))
		for i := range takes {
			takes[i] = ms
		}
		takes[7] = 50 * ms
		calls(t, c, 1000, takes...)
		counts := calls(t, c, 20_000, takes...)
		if counts[7] > 10 {
			t.Errorf("the slow one has %d of 20000 calls", counts[7])
		}
		for i, n := range counts {
			if i != 7 && (n < 300 || n > 520) {
				t.Errorf("endpoint %d has %d calls, want about 408", i, n)
			}
		}
	}, weights...)
}

// What was measured outlives the picker, the connection and the channel.
//
// Case P3
func TestMemoryOutlivesIdleness(t *testing.T) {
	inTime(t, func(t *testing.T, c *balancertest.Channel) {
		calls(t, c, 100, ms, ms, 100*ms)
		c.Policy.Close()
		c.Reopen()
		c.Ready("{}", 1, 1, 1)
		if counts := calls(t, c, 1000, ms, ms, 100*ms); counts[2] > 0 {
			t.Errorf("the slow one has %d calls after an idle cycle", counts[2])
		}
		if e := c.Table.Stats().Endpoints[2]; e.Latency < 90 || e.State != balancer.InRotation {
			t.Errorf("%+v", e)
		}
	}, 1, 1, 1)
}

func TestConfigIsChecked(t *testing.T) {
	balancertest.RefusesConfigs(t, peakewma.Name, map[string]string{
		`{"choiceCount": 1}`:     "choiceCount 1 is not in 2 to 10",
		`{"choiceCount": 11}`:    "choiceCount 11 is not in 2 to 10",
		`{"choiceCount": "two"}`: "choiceCount",
		`[]`:                     "cannot unmarshal",
	})
}

// Case X10 (chain, balancer)
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{`{}`, `{"choiceCount": 3}`, `{"choiceCount": -1}`, `null`, `[`, `{"choiceCount": 1e99}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, config string) { balancertest.PicksIfAccepted(t, peakewma.Name, config) })
}

func Example() {
	conn, err := grpc.NewClient("dns:///catalog.internal:8080",
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"`+peakewma.Name+`": {}}]}`),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	fmt.Println(conn.Target())
	// Output: dns:///catalog.internal:8080
}

// P15, above the size that is looked at whole: those that are drawn by weight are not
// preferred by their weight once more, and load counts for its weight.
//
// Case P15
func TestALargeSetSharesByWeight(t *testing.T) {
	weights := balancertest.Equal(20)
	for i := range 10 {
		weights[i] = 4
	}
	for name, inFlight := range map[string]int{"idle": 1, "under load": 200} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, c *balancertest.Channel) {
				const n = 40_000
				heavy := 0
				var under []func(grpcbalancer.DoneInfo)
				for range n {
					i, done := pick(t, c)
					if i < 10 {
						heavy++
					}
					if under = append(under, done); len(under) == inFlight {
						time.Sleep(ms)
						under[0](success)
						under = under[1:]
					}
				}
				for _, done := range under {
					done(success)
				}
				if got := float64(heavy) / n; math.Abs(got-0.8) > 0.04 {
					t.Errorf("those with 0.8 of the weight have %.3f of the calls", got)
				}
			}, weights...)
		})
	}
}
