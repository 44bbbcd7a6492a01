package resolver

import (
	"cmp"
	"hash/maphash"
	"slices"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// subset is the part of list that a client connects to: size of them, or all
// where there are no more. By rendezvous hashing (Thaler and Ravishankar, as in
// gRFC A68) it changes by one entry at most when one instance comes or goes, and
// clients with other seeds have other subsets. A list by distance is cut where it
// is far enough.
func subset(list []catalog.Instance, size int, seed maphash.Seed, near bool) []catalog.Instance {
	if size == 0 || len(list) <= size {
		return list
	}
	if near {
		return list[:size]
	}
	type score struct {
		hash uint64
		at   int
	}
	scores := make([]score, len(list))
	for i := range list {
		scores[i] = score{maphash.String(seed, list[i].Address), i}
	}
	slices.SortFunc(scores, func(a, b score) int { return cmp.Compare(a.hash, b.hash) })
	scores = scores[:size]
	slices.SortFunc(scores, func(a, b score) int { return cmp.Compare(a.at, b.at) })
	chosen := make([]catalog.Instance, size)
	for i, s := range scores {
		chosen[i] = list[s.at]
	}
	return chosen
}
