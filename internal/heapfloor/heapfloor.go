// Package heapfloor lets the heap of our programs grow to a floor before it is collected: a
// heap of a few megabytes, such as that of most services, would be collected many times a
// second. Libraries leave that to the program that they are part of.
package heapfloor

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// floor is the size of the heap, in bytes, until which it is not collected.
	floor = 64 << 20
	// usual is GOGC without a floor, and what it is for a heap above half of it.
	usual = 100
	// smallest is the live heap in bytes that the runtime reckons with at least.
	smallest = 4 << 20
)

// Set sets the floor for the whole life of the process, unless GOGC is set. A memory limit
// (GOMEMLIMIT) holds as ever. Call it once, in main.
func Set() {
	if os.Getenv("GOGC") != "" {
		return
	}
	adjust()
	runtime.SetFinalizer(&cycle{}, collected)
}

// cycle is garbage at once, so that each collection finds it.
type cycle struct{ _ *cycle }

// collected runs after each collection: its percentage is right for one size of what is left.
func collected(c *cycle) {
	adjust()
	runtime.SetFinalizer(c, collected)
}

func adjust() {
	set, want := current(), percent(read("/gc/heap/live:bytes"))
	if want < set || want > set+set/8 { // it stops the world
		debug.SetGCPercent(want)
	}
}

func current() int { return int(read("/gc/gogc:percent")) }

func read(name string) uint64 {
	samples := []metrics.Sample{{Name: name}}
	metrics.Read(samples)
	return samples[0].Value.Uint64()
}

// percent is the GOGC by which a heap with so many bytes alive grows to the floor, or to twice
// its size.
func percent(live uint64) int {
	live = max(live, smallest)
	if live >= floor/2 {
		return usual
	}
	return int((floor - live) * 100 / live)
}
