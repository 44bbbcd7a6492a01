//go:build !race

package meshlite_test

const raceEnabled = false
