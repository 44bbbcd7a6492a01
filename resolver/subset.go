package resolver

import (
	"cmp"
	"hash/maphash"
	"slices"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// subset chooses the endpoints that a channel connects to: size of a list, and beside them
// those that are tried in place of unreachable ones. Rendezvous hashing (Thaler and Ravishankar,
// as in gRFC A68) changes it by at most one member when one instance is added or removed, and
// gives clients with other seeds other subsets. A list by distance is cut at its end.
type subset struct {
	size       int // 0 is all
	seed       maphash.Seed
	byDistance bool
	table      *balancer.Table // reports which endpoints can be reached
	wake       chan<- struct{} // filled when the subset may change

	list      []catalog.Instance // that was last chosen from
	order     []int              // of its instances, by preference
	addresses []string           // in this order
	stop      func()             // ends the waking; nil while there is none
}

// choose returns the subset of list, and when to choose again without being woken; 0 is never.
func (s *subset) choose(list []catalog.Instance) (members []catalog.Instance, again time.Duration) {
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
	slices.Sort(at) // the order of the list
	members = make([]catalog.Instance, len(at))
	for i, n := range at {
		members[i] = list[n]
	}
	return members, again
}

// sort computes the order of preference, unless list is the last one.
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
	if !s.byDistance {
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
