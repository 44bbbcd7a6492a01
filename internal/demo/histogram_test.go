package demo

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A quantile is at least the real one, and at most 3 % above it.
func TestQuantilesAreClose(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for name, draw := range map[string]func() time.Duration{
		"microseconds": func() time.Duration { return time.Duration(random.IntN(40)) * time.Microsecond },
		"milliseconds": func() time.Duration { return time.Duration(random.ExpFloat64() * float64(7*time.Millisecond)) },
		"seconds":      func() time.Duration { return time.Duration(random.Float64() * float64(20*time.Second)) },
	} {
		t.Run(name, func(t *testing.T) {
			var h histogram
			var all []time.Duration
			for range 10_000 {
				d := draw()
				h.add(d)
				all = append(all, d)
			}
			slices.Sort(all)
			for _, q := range []float64{0, 0.5, 0.9, 0.99, 1} {
				want := all[max(0, int(q*float64(len(all)))-1)]
				got := h.quantile(q)
				if got < want || got > want+want*32/1000+2*time.Microsecond {
					t.Errorf("quantile %v is %v, want %v", q, got, want)
				}
			}
		})
	}
}

func TestHistogramEdges(t *testing.T) {
	var h histogram
	if got := h.quantile(0.99); got != 0 {
		t.Errorf("an empty one says %v", got)
	}
	h.add(-time.Second)
	h.add(time.Hour)
	if low, high := h.quantile(0.5), h.quantile(1); low > time.Microsecond || high < 67*time.Second {
		t.Errorf("what is out of range is %v and %v, want it in the first and the last bucket", low, high)
	}
	for b := range buckets {
		if got := bucketOf(upperOf(b) - time.Microsecond); got != b {
			t.Fatalf("the end of bucket %d is in bucket %d", b, got)
		}
	}
}

func TestMergeAndSince(t *testing.T) {
	var a, b histogram
	a.add(time.Millisecond)
	b.add(time.Second)
	before := a
	a.merge(&b)
	later := a.since(&before)
	if a.total != 2 || later.total != 1 || later.quantile(0.5) < time.Second {
		t.Errorf("got %d in all and %d since, want 2 and the second of b", a.total, later.total)
	}
}
