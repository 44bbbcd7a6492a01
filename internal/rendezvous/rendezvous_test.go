package rendezvous_test

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/rendezvous"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Nodes are preferred as often as their weights say, and a change of one weight moves keys from
// or to that node only.
func TestPreferencesAreInProportion(t *testing.T) {
	prefer := func(key uint64, weights []float64) (best int) {
		var most float64
		for i, w := range weights {
			node := rendezvous.Hash(fmt.Sprint("node-", i))
			if score := rendezvous.Score(rendezvous.Draw(key, node), w); i == 0 || score > most {
				best, most = i, score
			}
		}
		return best
	}
	const keys = 100_000
	weights, counts := []float64{1, 2, 5}, make([]int, 3)
	for i := range keys {
		key := rendezvous.Hash(fmt.Sprint("customer-", i))
		before := prefer(key, weights)
		counts[before]++
		if after := prefer(key, []float64{1, 4, 5}); after != before && after != 1 {
			t.Fatalf("key %d moves from node %d to %d, whose weights have not changed", i, before, after)
		}
	}
	var chi float64
	for i, w := range weights {
		expected := keys * w / 8
		chi += (float64(counts[i]) - expected) * (float64(counts[i]) - expected) / expected
	}
	if chi > 13.8 { // of two degrees of freedom at 0.001
		t.Errorf("counts %v by weights %v: chi-square is %.1f", counts, weights, chi)
	}
}
