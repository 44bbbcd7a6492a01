//go:build race

package ratelimit_test

// The race detector makes all ten times slower.
func init() { manyKeys, someKeys = 200_000, 1000 }
