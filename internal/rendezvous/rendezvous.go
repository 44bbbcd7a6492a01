// Package rendezvous is weighted rendezvous hashing: of several nodes a key prefers one, the same
// in all processes, and each node is preferred by its part of all weight. A node that leaves
// moves its own keys only.
package rendezvous

import "math"

// Hash hashes a key or a node (FNV-1a).
func Hash(s string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return h
}

// Draw is what the hash of a key says of the hash of a node: uniformly distributed, and
// independent of other nodes. Of nodes with equal weights the highest is preferred.
func Draw(key, node uint64) uint64 { return Mix(key ^ node) }

// Mix is the finalizer of SplitMix64: values that differ in a bit become independent.
func Mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Score weighs a draw: of nodes with different weights the highest is preferred.
func Score(draw uint64, weight float64) float64 {
	uniform := (float64(draw>>11) + 0.5) * 0x1p-53
	return weight / -math.Log(uniform)
}
