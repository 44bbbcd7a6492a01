//go:build !race

package callstream

const raceEnabled = false
