package cache

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

const (
	// maxSubjects caps the subjects that have a generation of their own: methods and the
	// tags that policies write out. A contract has tens of them.
	maxSubjects = 8192
	// maxSlots is how many generations all other subjects share by their hash. To be
	// invalidated with a stranger, one time in so many, costs a call.
	maxSlots = 1 << 16
)

// generations know what has been invalidated since an answer was loaded, at the price of
// one comparison for each of its subjects and without a search for the answers. An answer
// counts from when its load began, so an invalidation that lands during a load wins over
// that load.
type generations struct {
	now   atomic.Uint64
	all   generation
	seed  maphash.Seed
	slots []generation

	mu    sync.RWMutex
	known map[string]*generation
}

// generation is the stamp of the latest invalidation of a subject.
type generation struct{ atomic.Uint64 }

func newGenerations() *generations {
	return &generations{seed: maphash.MakeSeed(), slots: make([]generation, maxSlots), known: map[string]*generation{}}
}

// own is the generation of a subject that a policy names.
func (g *generations) own(subject string) *generation {
	g.mu.Lock()
	defer g.mu.Unlock()
	if known := g.known[subject]; known != nil {
		return known
	}
	if len(g.known) >= maxSubjects {
		return &g.slots[g.slot(subject)]
	}
	made := &generation{}
	g.known[subject] = made
	return made
}

// slot is where the generation of a subject lies that comes with a call.
func (g *generations) slot(subject string) uint32 {
	return uint32(maphash.String(g.seed, subject) % maxSlots)
}

// invalidate puts an end to all that was loaded until now and belongs to a subject.
func (g *generations) invalidate(subjects ...string) {
	stamp := g.now.Add(1)
	for _, subject := range subjects {
		if subject == everything {
			g.all.raise(stamp)
			continue
		}
		g.slots[g.slot(subject)].raise(stamp)
		g.mu.RLock()
		known := g.known[subject]
		g.mu.RUnlock()
		if known != nil {
			known.raise(stamp)
		}
	}
}

func (g *generation) raise(stamp uint64) {
	for {
		old := g.Load()
		if old >= stamp || g.CompareAndSwap(old, stamp) {
			return
		}
	}
}

// holds reports whether nothing that e belongs to has been invalidated since its load
// began.
func (r *rule) holds(e *entry) bool {
	g := r.generations
	if g.all.Load() > e.stamp {
		return false
	}
	for _, own := range r.own {
		if own.Load() > e.stamp {
			return false
		}
	}
	for _, slot := range e.slots {
		if g.slots[slot].Load() > e.stamp {
			return false
		}
	}
	return true
}
