package balancer

import (
	"testing"
	"testing/synctest"
	"time"
)

// A call that takes as long as one of the latest seconds did is no stall, although a hundred
// short ones ended in between; where there were short ones only, it is.
func TestALongCallAmongShortOnesIsNoStall(t *testing.T) {
	for long, want := range map[time.Duration]bool{500 * time.Millisecond: false, time.Millisecond: true} {
		synctest.Test(t, func(t *testing.T) {
			e := &Endpoint{table: NewTable()}
			call := func(takes time.Duration) {
				x := Choice{member: &member{Endpoint: e}, start: e.table.now()}
				e.picked.Add(1)
				time.Sleep(takes)
				x.sampleLatency()
				e.ended.Add(1)
			}
			call(long)
			for range 100 {
				call(time.Millisecond)
			}
			e.stall.check(e, e.table.now())
			e.picked.Add(1) // it goes on
			for range 15 {
				time.Sleep(stallCheckInterval)
				e.stall.check(e, e.table.now())
			}
			if got := e.is(stalled); got != want {
				t.Errorf("a call in flight for 300 ms, after one of %v: stalled %t, want %t", long, got, want)
			}
		})
	}
}
