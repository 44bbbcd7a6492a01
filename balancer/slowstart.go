package balancer

import (
	"math"
	"time"
)

// begin starts e slowly if it is cold: it has come to a service that was running, or
// back to it. The caller holds Table.mu.
func (s SlowStart) begin(e *Endpoint, now time.Duration) {
	if e.cold {
		e.cold, e.owed, e.slow, e.began = false, true, true, now
	}
}

// Part is how much of its weight an endpoint has when its slow start began that long ago.
// The curve is Envoy's, see its documentation of slow start mode.
func (s SlowStart) Part(since time.Duration) float64 {
	if since >= time.Duration(s.Window) {
		return 1
	}
	past := float64(since) / float64(s.Window)
	return max(math.Pow(past, 1/s.Aggression), s.MinWeightPercent/100)
}

// part is how much of its weight e has by now, and when it must be asked again: 0 is
// never. The caller holds Table.mu.
func (s SlowStart) part(e *Endpoint, now time.Duration) (part float64, again time.Duration) {
	window, since := time.Duration(s.Window), now-e.began
	if !e.slow || since >= window {
		return 1, 0
	}
	return s.Part(since), min(window/steps, window-since)
}

// steps is how many weights an endpoint has on its way to the whole. A picker is
// never changed, so it has the weight of when it was made.
const steps = 20
