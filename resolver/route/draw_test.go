package route_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/meshlite-go/meshlite/resolver/route"
)

func arms(weights ...float64) *route.Route {
	r := &route.Route{}
	for _, w := range weights {
		r.Arms = append(r.Arms, &route.Arm{Weight: w})
	}
	return r
}

func even(n int, weight float64) []float64 {
	all := make([]float64, n)
	for i := range all {
		all[i] = weight
	}
	return all
}

// splits are weights of arms.
var splits = map[string][]float64{
	"90/10":                       {90, 10},
	"99.9/0.1":                    {99.9, 0.1},
	"nested":                      {90, 5, 3.75, 1.25},
	"rounded to less":             {33.33, 33.33, 33.33},
	"with arms of nothing":        {0, 60, 0, 40, 0},
	"a hundred":                   even(100, 1),
	"the least weight":            {0.01, 99.99},
	"the least weight, many arms": append(even(100, 0.01), 99),
}

// shares counts calls by arm.
func shares(t *testing.T, weights []float64, calls int, point func() float64) (got []int, want []float64) {
	t.Helper()
	r, counts, total := arms(weights...), map[*route.Arm]int{}, 0.0
	for range calls {
		counts[r.Arm(point())]++
	}
	for _, w := range weights {
		total += w
	}
	for i, a := range r.Arms {
		got, want = append(got, counts[a]), append(want, weights[i]/total*float64(calls))
		if weights[i] == 0 && got[i] > 0 {
			t.Errorf("an arm of weight 0 got %d calls", got[i])
		}
	}
	return got, want
}

// Case T2: Shares within 0.1 % of weights over 100,000 calls, also for 99.9/0.1 and nested splitters.
func TestSharesAreTheWeights(t *testing.T) {
	const calls = 100_000
	for name, weights := range splits {
		// Each point follows the last by the golden ratio, as in balancer/routes.
		at := rand.New(rand.NewPCG(19, 1)).Float64()
		got, want := shares(t, weights, calls, func() float64 {
			_, at = math.Modf(at + math.Phi)
			return 100 * at
		})
		for i := range got {
			if off := math.Abs(float64(got[i])-want[i]) / calls; off > 0.001 {
				t.Errorf("%s: arm %d of weight %v got %d of %d calls", name, i, weights[i], got[i], calls)
			}
		}
	}
}

// Case T2
func TestSharesOfRandomPointsFit(t *testing.T) {
	random := rand.New(rand.NewPCG(19, 2))
	for name, weights := range splits {
		got, want := shares(t, weights, 100_000, func() float64 { return 100 * random.Float64() })
		chi2, free := 0.0, -1.0
		for i := range got {
			if want[i] > 0 {
				chi2 += (float64(got[i]) - want[i]) * (float64(got[i]) - want[i]) / want[i]
				free++
			}
		}
		// Wilson and Hilferty: a standard normal deviate, whose value is above 3.72 once in
		// 10,000 times.
		if z := (math.Cbrt(chi2/free) - (1 - 2/(9*free))) / math.Sqrt(2/(9*free)); z > 3.72 {
			t.Errorf("%s: chi-square %.1f with %v degrees of freedom", name, chi2, free)
		}
	}
}

func TestArmsFollowEachOther(t *testing.T) {
	r := arms(90, 9.99, 0, 0.01)
	for point, want := range map[float64]int{0: 0, 89.99: 0, 90: 1, 99.98: 1, 99.995: 3, 100: 3, 1e9: 3, -1: 0, math.Inf(1): 3, math.NaN(): 3} {
		if got := r.Arm(point); got != r.Arms[want] {
			t.Errorf("%v: %+v, want arm %d", point, got, want)
		}
	}
	for _, none := range []*route.Route{arms(0, 0), arms()} {
		if a := none.Arm(50); a != nil {
			t.Errorf("%+v of no weight", a)
		}
	}
}
