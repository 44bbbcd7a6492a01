package balancer

import (
	"cmp"
	"slices"
)

// maxTurns caps the length of a schedule, and with it the time to make one.
// Weights whose sum is larger are rounded, each by less than 1/16384 of the sum.
const maxTurns = 1 << 14

// Schedule is a round in which each endpoint has as many turns as its weight
// says, evenly spread. It is never changed once made.
type Schedule struct {
	endpoints uint32
	order     []uint32 // nil is each in turn: all weights are equal
}

// NewSchedule writes out one round for ready, of which there is at least one.
func NewSchedule(ready []Ready) Schedule {
	weights := make([]uint32, len(ready))
	for i := range ready {
		weights[i] = ready[i].Weight
	}
	s := Schedule{endpoints: uint32(len(ready))}
	if weights = reduce(weights); slices.Max(weights) > 1 {
		s.order = spread(weights)
	}
	return s
}

// At is the endpoint whose turn is the n-th, for any n.
func (s Schedule) At(n uint32) int {
	if s.order == nil {
		return int(n % s.endpoints)
	}
	return int(s.order[n%uint32(len(s.order))])
}

// maxDraws bounds the search for an endpoint not drawn before, which one weight
// above all others could make long.
const maxDraws = 16

// Draw is an endpoint at random, by weight, that is not among taken, which are fewer
// than there are.
func (s Schedule) Draw(taken []int, random func() uint64) int {
	i := s.At(uint32(random()))
	for range maxDraws {
		if !slices.Contains(taken, i) {
			return i
		}
		i = s.At(uint32(random()))
	}
	for slices.Contains(taken, i) {
		i = (i + 1) % int(s.endpoints)
	}
	return i
}

// spread orders the turns by when they are due: the k-th of weight w at
// (k + phase) / w of the round. This is earliest deadline first, as in Envoy. The
// phases of endpoints of one weight differ, so that they do not come in a row.
func spread(weights []uint32) []uint32 {
	type turn struct {
		due      float64
		endpoint uint32
	}
	alike, before := map[uint32]int{}, map[uint32]int{}
	for _, w := range weights {
		alike[w]++
	}
	var turns []turn
	for i, w := range weights {
		phase := (float64(before[w]) + 0.5) / float64(alike[w])
		before[w]++
		for k := range w {
			turns = append(turns, turn{(float64(k) + phase) / float64(w), uint32(i)})
		}
	}
	slices.SortFunc(turns, func(a, b turn) int {
		return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.endpoint, b.endpoint))
	})
	order := make([]uint32, len(turns))
	for i, t := range turns {
		order[i] = t.endpoint
	}
	return order
}

// reduce makes weights as small as they can be with the same proportions, and
// rounds them where the sum would still be too large. Nobody falls to zero.
func reduce(weights []uint32) []uint32 {
	divisor, sum := uint32(0), uint64(0)
	for _, w := range weights {
		divisor = gcd(divisor, w)
		sum += uint64(w)
	}
	sum /= uint64(divisor)
	reduced := make([]uint32, len(weights))
	for i, w := range weights {
		reduced[i] = w / divisor
		if sum > maxTurns {
			reduced[i] = max(1, uint32((uint64(reduced[i])*maxTurns+sum/2)/sum))
		}
	}
	return reduced
}

func gcd(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
