//go:build race

package meshlite_test

// raceEnabled is whether the race detector allocates beside the code.
const raceEnabled = true
