package balancer

import (
	"testing"
	"time"
)

// timedOf counts the timed ones of n attempts on one endpoint, a gap apart.
func timedOf(x *timing, first, n uint64, at *time.Duration, gap time.Duration, all bool) (timed int) {
	for i := first; i < first+n; i++ {
		*at += gap
		if x.due(i, all) {
			x.timed(i, *at)
			timed++
		}
	}
	return timed
}

// Attempts are timed as often as the policy needs, less where they follow each other at once,
// and as often again as soon as they do not.
func TestAttemptsAreTimedByTheirRate(t *testing.T) {
	for _, test := range []struct {
		all                  bool
		apart, atOnce, after int // timed of 1,280 attempts
	}{{true, 1280, 1280/8 + 3, 1280 - 7}, {false, 80, 1280/128 + 4, 80}} {
		var x timing
		at := time.Duration(0)
		if got := timedOf(&x, 1, 1280, &at, 10*time.Millisecond, test.all); got != test.apart {
			t.Errorf("all %t: %d of 1,280 are timed, want %d", test.all, got, test.apart)
		}
		if got := timedOf(&x, 1281, 1280, &at, time.Microsecond, test.all); got > test.atOnce || got < 5 {
			t.Errorf("all %t: %d of 1,280 at once are timed, want %d at most", test.all, got, test.atOnce)
		}
		if got := timedOf(&x, 2561, 1280, &at, 10*time.Millisecond, test.all); got < test.after-7 || got > test.apart {
			t.Errorf("all %t: after that %d of 1,280 are timed, want %d nearly", test.all, got, test.after)
		}
	}
	var x timing
	if !x.due(1, false) {
		t.Error("the first attempt is not timed")
	}
}
