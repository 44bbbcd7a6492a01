package demo

import (
	"testing"
	"time"
)

func TestSchedule(t *testing.T) {
	for name, test := range map[string]struct {
		schedule
		first, second int // calls in the first and in the second ten seconds
	}{
		"steady":  {schedule{rate: 200}, 2000, 2000},
		"doubles": {schedule{rate: 240, doubles: 10 * time.Second}, 2400, 4800},
	} {
		var first, second int
		for at := time.Duration(0); at < 20*time.Second; at = test.after(at) {
			if at < 10*time.Second {
				first++
			} else {
				second++
			}
		}
		// A period that is no whole number of nanoseconds is rounded down, so that
		// one call may come a little too early.
		if off(first, test.first) > 1 || off(second, test.second) > 1 {
			t.Errorf("%s: got %d and %d calls, want %d and %d", name, first, second, test.first, test.second)
		}
	}
}

func off(got, want int) int { return max(got-want, want-got) }

func TestPhaseAt(t *testing.T) {
	const length = 21 * time.Second
	for since, want := range map[time.Duration]phase{
		0: steady, 7*time.Second - 1: steady, 7 * time.Second: doubled,
		14*time.Second - 1: doubled, 14 * time.Second: faults, time.Minute: faults,
	} {
		if got := phaseAt(since, length); got != want {
			t.Errorf("at %v it is %v, want %v", since, got, want)
		}
	}
}
