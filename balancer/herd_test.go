package balancer_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/balancer/peakewma"
	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/internal/simulation"
)

// steady takes about that long, give or take a tenth.
func steady(d time.Duration) func(time.Duration, *rand.Rand) time.Duration {
	return func(_ time.Duration, r *rand.Rand) time.Duration {
		return time.Duration(float64(d) * (0.9 + 0.2*r.Float64()))
	}
}

// P2: A backend that fails in 1 ms never gets more traffic than a healthy one that
// answers in 20 ms: not if it fails always, even without ejection, and with ejection not
// if it fails at times.
//
// Case P2: Failing fast draws no traffic.
func TestFailingFastDrawsNoTraffic(t *testing.T) {
	racetest.Skip(t)
	const off = `{"ejection": {"disabled": true}}`
	for _, test := range []struct {
		config         string
		failing        float64
		callers, calls int
	}{{off, 1, 1, 3000}, {off, 1, 32, 3000}, {"{}", 1, 32, 3000}, {"{}", 0.6, 32, 10_000}, {"{}", 0.3, 32, 20_000}} {
		bad := simulation.Backend{
			Latency: steady(time.Millisecond),
			Code: func(_ time.Duration, r *rand.Rand) codes.Code {
				if r.Float64() < test.failing {
					return codes.Unavailable
				}
				return codes.OK
			},
		}
		good := simulation.Backend{Latency: steady(20 * time.Millisecond)}
		for _, policy := range policies {
			t.Run(fmt.Sprintf("%s/%s/%v/%d", policy, test.config, test.failing, test.callers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := simulation.Scene{Policy: policy, Config: test.config, Seed: 1, Backends: []simulation.Backend{bad, good, good}}
					counts := simulation.Counts(s.Closed(t, test.callers, test.calls), 3)
					if counts[0] > min(counts[1], counts[2])+1 { // round robin may just have been there
						t.Errorf("calls went to %v, the first of which fails", counts)
					}
				})
			})
		}
	}
}

// P13: Equal backends get shares within 10 % of the mean (chi-square); 50 clients
// started together do not herd.
//
// Case P13
func TestFiftyClientsDoNotHerd(t *testing.T) {
	racetest.Skip(t)
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const backends, perSecond, seconds = 10, 5000, 8
				list := make([]simulation.Backend, backends)
				for i := range list {
					list[i].Latency = steady(20 * time.Millisecond)
				}
				calls := simulation.Scene{Policy: policy, Seed: 1, Clients: 50, Backends: list}.Open(t, perSecond, seconds*time.Second)
				mean := float64(len(calls)) / backends
				for i, n := range simulation.Counts(calls, backends) {
					if math.Abs(float64(n)-mean) > 0.1*mean {
						t.Errorf("backend %d has %d calls of a mean of %.0f", i, n, mean)
					}
				}
				// In any tenth of a second no backend has half as much again as the mean,
				// which is 50: that would be seven standard deviations of chance.
				slots := map[[2]int]int{}
				for _, c := range calls {
					slots[[2]int{int(c.Start / (100 * time.Millisecond)), c.Backend}]++
				}
				for slot, n := range slots {
					if n > 100 {
						t.Errorf("backend %d has %d calls in a tenth of a second, of a mean of 50", slot[1], n)
					}
				}
			})
		})
	}
}

// F3, simulated: One of three stalled for 4 s at 1,000 calls a second with a deadline of
// 1 s: <= 10 failed calls. Stock: round_robin 1,012, least_request 325-356.
//
// Case F3
func TestAStalledBackendIsFoundOut(t *testing.T) {
	racetest.Skip(t)
	for _, policy := range []string{leastrequest.Name, peakewma.Name} {
		for seed := range uint64(5) {
			t.Run(fmt.Sprintf("%s/%d", policy, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					handler := steady(5 * time.Millisecond)
					stalled := func(now time.Duration, r *rand.Rand) time.Duration {
						if thaw := 6 * time.Second; now >= 2*time.Second && now < thaw {
							return thaw - now + handler(now, r)
						}
						return handler(now, r)
					}
					s := simulation.Scene{
						Policy: policy, Seed: seed, Deadline: time.Second,
						Backends: []simulation.Backend{{Latency: stalled}, {Latency: handler}, {Latency: handler}},
					}
					failed := 0
					for _, c := range s.Open(t, 1000, 8*time.Second) {
						if c.Code != codes.OK {
							failed++
						}
					}
					if failed > 10 || failed == 0 {
						t.Errorf("%d calls failed, want 1 to 10", failed)
					}
					t.Logf("%d calls failed", failed)
				})
			})
		}
	}
}
