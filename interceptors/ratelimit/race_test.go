//go:build race

package ratelimit_test

// The race detector makes all ten times slower.
func init() { someKeys = 1000 }
