//go:build race

package racetest

// Enabled is whether the race detector is on. It allocates beside the code.
const Enabled = true
