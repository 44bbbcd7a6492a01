package simulation_test

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/balancer/peakewma"
	"github.com/meshlite-go/meshlite/internal/racetest"
	. "github.com/meshlite-go/meshlite/internal/simulation"
)

// noisy answers as backends on a busy machine do: usually within a millisecond, and one call in
// so many waits for the processor, 10 ms in the mean. Then it takes more.
func noisy(oneIn int, more time.Duration) func(time.Duration, *rand.Rand) time.Duration {
	usual := lognormal(700*time.Microsecond, 0.5)
	return func(now time.Duration, r *rand.Rand) time.Duration {
		took := usual(now, r) + more
		if r.IntN(oneIn) == 0 {
			took += time.Duration(r.ExpFloat64() * float64(10*ms))
		}
		return took
	}
}

// Peak EWMA keeps the slow one of three out of the p99, also where the latency of the others has
// peaks as high: a few of them must not pass for what an endpoint takes.
func TestPeakEWMAKeepsASlowOneOutAmidNoise(t *testing.T) {
	racetest.Skip(t)
	for _, oneIn := range []int{10_000, 1000, 300, 100} {
		synctest.Test(t, func(t *testing.T) {
			backends := []Backend{{Latency: noisy(oneIn, 20*ms)}, {Latency: noisy(oneIn, 0)}, {Latency: noisy(oneIn, 0)}}
			calls := Scene{Policy: peakewma.Name, Seed: *seed, Backends: backends}.Closed(t, 32, 100_000)
			slow := float64(Counts(calls, 3)[0]) / float64(len(calls))
			t.Logf("one in %d waits: p99 is %v, %.3f %% of the calls go to the slow one", oneIn, Quantile(calls, 0.99), 100*slow)
			if slow > 0.005 {
				t.Errorf("one in %d waits: %.2f %% of the calls go to the slow one, want 0.5 at most", oneIn, 100*slow)
			}
		})
	}
}
