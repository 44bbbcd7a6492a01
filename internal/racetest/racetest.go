// Package racetest leaves tests out while the race detector runs, which makes what counts picks,
// keys or lines by the hundred thousand five to ten times as slow, and has no race to find where
// one goroutine works. `make test` runs the tests that begin with Skip in a run of their own.
//
//	func TestShares(t *testing.T) {
//		racetest.Skip(t)
package racetest

import "testing"

// Skip skips a test if the race detector is on.
func Skip(t testing.TB) {
	t.Helper()
	if Enabled {
		t.Skip("left to a run without -race, where it takes a tenth of the time")
	}
}
