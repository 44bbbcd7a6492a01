package demo

import (
	"math"
	"math/bits"
	"time"
)

// Buckets are 1 µs wide below 32 µs, and a thirty-second of an octave above, so
// that a figure is off by 3 % at most. They end at 67 s.
const (
	subBits   = 5
	subs      = 1 << subBits
	octaves   = 26 - subBits
	buckets   = (octaves + 1) * subs
	lastMicro = 1<<26 - 1
)

// histogram counts durations in a fixed amount of memory. The zero value is empty.
type histogram struct {
	total  uint64
	counts [buckets]uint64
}

func (h *histogram) add(d time.Duration) {
	h.total++
	h.counts[bucketOf(d)]++
}

func (h *histogram) merge(other *histogram) {
	h.total += other.total
	for i, n := range other.counts {
		h.counts[i] += n
	}
}

// since is what was added to h after it was copied as before.
func (h *histogram) since(before *histogram) histogram {
	diff := histogram{total: h.total - before.total}
	for i, n := range h.counts {
		diff.counts[i] = n - before.counts[i]
	}
	return diff
}

// quantile is the duration that a share q of the counted ones did not exceed, 0
// when there are none.
func (h *histogram) quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := max(1, uint64(math.Ceil(q*float64(h.total))))
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return upperOf(i)
		}
	}
	return upperOf(buckets - 1)
}

func bucketOf(d time.Duration) int {
	micros := uint64(min(max(d.Microseconds(), 0), lastMicro))
	octave := max(bits.Len64(micros)-subBits-1, 0)
	return octave<<subBits + int(micros>>octave)
}

// upperOf is the end of a bucket.
func upperOf(bucket int) time.Duration {
	octave := max(bucket>>subBits-1, 0)
	mantissa := bucket - octave<<subBits
	return time.Duration((mantissa+1)<<octave) * time.Microsecond
}
