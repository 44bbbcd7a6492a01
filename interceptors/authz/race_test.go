//go:build race

package authz_test

// raceEnabled is whether the race detector allocates beside the code.
const raceEnabled = true
