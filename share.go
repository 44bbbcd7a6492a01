package meshlite

import (
	"math"
	"sync"
	"sync/atomic"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// unknownShare is that of a server before the directory's first answer: neither all of a
// limit, which the others admit too, nor nothing.
const unknownShare = 0.5

// share is the server's part of the calls of its service: its weight among those of the
// instances that can be called, itself always included. They may be under several names.
type share struct {
	part atomic.Uint64 // bits of a float64

	mu    sync.Mutex
	own   catalog.Instance
	lists map[string][]catalog.Instance // by name
}

func newShare() *share {
	s := &share{lists: map[string][]catalog.Instance{}}
	s.part.Store(math.Float64bits(unknownShare))
	return s
}

func (s *share) of() float64 { return math.Float64frombits(s.part.Load()) }

// self is the server as its directory has it; without an address it does not listen yet.
func (s *share) self() catalog.Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own
}

// update replaces the instances of a name.
func (s *share) update(name string, list []catalog.Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists[name] = list
	weights := map[string]uint32{s.own.Address: s.own.Weight}
	for _, list := range s.lists {
		for i := range list {
			weights[list[i].Address] = list[i].Weight
		}
	}
	all := 0.0
	for _, weight := range weights {
		all += float64(weight)
	}
	s.part.Store(math.Float64bits(float64(weights[s.own.Address]) / all))
}
