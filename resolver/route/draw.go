package route

import "sync/atomic"

// Arm returns the arm of r at a point of [0, 100): arms follow each other, each as long as its
// weight. So evenly distributed points make shares that are the weights. Weights that do not
// sum to 100, because nested splits are rounded, are scaled. It is nil if all arms have
// weight 0.
func (r *Route) Arm(point float64) *Arm {
	total := 0.0
	for _, a := range r.Arms {
		total += a.Weight
	}
	point *= total / 100
	var last *Arm
	for _, a := range r.Arms {
		if a.Weight <= 0 {
			continue
		}
		if last = a; point < a.Weight {
			return a
		}
		point -= a.Weight
	}
	return last
}

// Points is a sequence of points for [Route.Arm] that are evenly distributed after few calls:
// each follows the last by the golden ratio. Over 100,000 calls a share is off by some calls,
// where that of random points is off by some hundred. The shares of every n-th call are the
// weights, too, so that callers in step get no other ones.
//
// It is safe for concurrent use. The zero value is ready.
type Points struct{ last atomic.Uint64 }

// NewPoints returns a sequence that begins anywhere, by a random seed, so that processes do
// not draw in step.
func NewPoints(seed uint64) *Points {
	p := &Points{}
	p.last.Store(seed)
	return p
}

// goldenRatio is its fraction in units of 1/2^64.
const goldenRatio = 0x9E3779B97F4A7C15

// Next returns a point of [0, 100).
func (p *Points) Next() float64 {
	return float64(p.last.Add(goldenRatio)>>11) / (1 << 53) * 100
}
