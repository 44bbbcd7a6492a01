package scrape

import (
	"cmp"
	"maps"
	"math"
	"slices"

	dto "github.com/prometheus/client_model/go"
)

// Histogram has, by the upper bound of each bucket in seconds, how much is in this bucket
// alone: so those of different bounds can be added.
type Histogram map[float64]float64

// longest is the largest bound in seconds; larger ones are treated as one.
const longest = 1e6

// histogramOf takes the counts apart, which are cumulative. What is said to be in none of
// the buckets is beyond the last.
func histogramOf(h *dto.Histogram) Histogram {
	type bucket struct{ bound, upTo float64 }
	var all []bucket
	for _, b := range h.GetBucket() {
		upTo := max(float64(b.GetCumulativeCount()), b.GetCumulativeCountFloat())
		if bound := b.GetUpperBound(); bound >= 0 && bound <= longest {
			all = append(all, bucket{bound, count(upTo)})
		}
	}
	slices.SortFunc(all, func(a, b bucket) int { return cmp.Compare(a.bound, b.bound) })
	total := count(max(float64(h.GetSampleCount()), h.GetSampleCountFloat()))
	all = append(all, bucket{math.Inf(1), total})
	buckets, before := Histogram{}, 0.0
	for _, b := range all {
		buckets[b.bound] += max(b.upTo-before, 0)
		before = max(before, b.upTo)
	}
	return buckets
}

// merge adds another one, times factor.
func (h Histogram) merge(other Histogram, factor float64) {
	for bound, n := range other {
		h[bound] += n * factor
	}
}

// since is what was added after before. One in which any count has decreased belongs to a restarted process.
func (h Histogram) since(before Histogram) Histogram {
	added := Histogram{}
	for bound, n := range h {
		added[bound] = n - before[bound]
	}
	for bound, n := range before {
		if h[bound] < n {
			return maps.Clone(h)
		}
	}
	return added
}

// Quantile is in seconds what a part q of all did not exceed, NaN when there are none: as
// histogram_quantile of Prometheus has it, evenly spread within a bucket, the first of which
// begins at 0. Beyond reports that it is more than the last bound, which is then given.
// Without bounds it is NaN, too.
func (h Histogram) Quantile(q float64) (seconds float64, beyond bool) {
	bounds := slices.Sorted(maps.Keys(h))
	total := 0.0
	for _, bound := range bounds {
		total += h[bound]
	}
	if !(total > 0) || len(bounds) < 2 {
		return math.NaN(), false
	}
	rank, before, start := q*total, 0.0, 0.0
	for _, bound := range bounds {
		n := h[bound]
		switch {
		case math.IsInf(bound, 1):
			return start, true
		case n > 0 && before+n >= rank:
			return start + (bound-start)*(rank-before)/n, false
		}
		before, start = before+n, bound
	}
	return start, false // by rounding
}
