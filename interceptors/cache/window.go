package cache

import (
	"sync/atomic"
	"time"
)

const (
	// slice is how finely the latest calls are told apart by their time.
	slice = 15 * time.Second
	// slices15m are enough for the longest window, and one that is being filled.
	slices15m = int(15*time.Minute/slice) + 1
)

// window counts the latest calls of a method, and how many of them were served without
// one. A few may be lost while a slice gives way to the next.
type window struct{ slices [slices15m]timeSlice }

type timeSlice struct {
	number        atomic.Int64 // since 1970
	served, calls atomic.Uint64
}

func (w *window) add(served bool, now time.Time) {
	number := now.UnixNano() / int64(slice)
	s := &w.slices[number%int64(slices15m)]
	if held := s.number.Load(); held != number && s.number.CompareAndSwap(held, number) {
		s.served.Store(0)
		s.calls.Store(0)
	}
	s.calls.Add(1)
	if served {
		s.served.Add(1)
	}
}

// Rate is how many calls of a time were served without one.
type Rate struct {
	Served uint64 `json:"served"`
	Calls  uint64 `json:"calls"`
}

// over is the rate of the latest calls: those of a length, and up to a slice more.
func (w *window) over(length time.Duration, now time.Time) Rate {
	var r Rate
	newest := now.UnixNano() / int64(slice)
	for i := range w.slices {
		s := &w.slices[i]
		if age := newest - s.number.Load(); age >= 0 && age <= int64(length/slice) {
			r.Served += s.served.Load()
			r.Calls += s.calls.Load()
		}
	}
	return r
}
