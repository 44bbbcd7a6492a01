//go:build race

package callstream

// raceEnabled is whether the race detector allocates beside the code.
const raceEnabled = true
