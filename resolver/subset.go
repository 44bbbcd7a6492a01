package resolver

import (
	"cmp"
	"hash/maphash"
	"slices"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// subset is the part of a list that a channel connects to: size of it, or all where
// there are no more, and for a time those that are tried in the place of what does not
// connect. By rendezvous hashing (Thaler and Ravishankar, as in gRFC A68) it changes by
// one entry at most when one instance comes or goes, and clients with other seeds have
// other subsets. A list by distance is cut where it is far enough.
type subset struct {
	size  int
	seed  maphash.Seed
	near  bool
	table *balancer.Table
	wake  chan<- struct{} // is filled when the subset may change

	list      []catalog.Instance // that these are of:
	order     []int              // of preference
	addresses []string           // in this order
	stop      func()             // ends the waking; nil while it does not
}

// of is the subset of list, and after which time to ask again, if that is not 0.
func (s *subset) of(list []catalog.Instance) (part []catalog.Instance, again time.Duration) {
	if s.size == 0 || len(list) <= s.size {
		s.close()
		return list, 0
	}
	if s.stop == nil {
		s.stop = s.table.OnReach(s.wake)
	}
	s.sort(list)
	chosen, again := s.table.Subset(s.addresses, s.size)
	var at []int
	for i, in := range chosen {
		if in {
			at = append(at, s.order[i])
		}
	}
	slices.Sort(at)
	part = make([]catalog.Instance, len(at))
	for i, n := range at {
		part[i] = list[n]
	}
	return part, again
}

// sort finds the order of list, unless it is the last one.
func (s *subset) sort(list []catalog.Instance) {
	if len(s.list) == len(list) && &s.list[0] == &list[0] {
		return
	}
	hashes := make([]uint64, len(list))
	s.list, s.order, s.addresses = list, make([]int, len(list)), make([]string, len(list))
	for i := range list {
		s.order[i] = i
		hashes[i] = maphash.String(s.seed, list[i].Address)
	}
	if !s.near {
		slices.SortFunc(s.order, func(a, b int) int { return cmp.Compare(hashes[a], hashes[b]) })
	}
	for i, at := range s.order {
		s.addresses[i] = list[at].Address
	}
}

// close ends the waking.
func (s *subset) close() {
	if s.stop != nil {
		s.stop()
		s.stop, s.list, s.order, s.addresses = nil, nil, nil, nil
	}
}
