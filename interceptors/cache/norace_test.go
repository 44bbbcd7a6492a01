//go:build !race

package cache_test

// few is how many times fewer calls are made where each costs ten times as much.
const few = 1
