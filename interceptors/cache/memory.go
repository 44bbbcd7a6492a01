package cache

import (
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/maypok86/otter/v2"
)

// memory holds the entries of a cache within a number of bytes. What it returns has not
// been invalidated.
type memory struct {
	entries     *otter.Cache[string, *entry]
	generations *generations
	maxEntry    uint64 // bytes
	evicted     atomic.Uint64
	closed      atomic.Bool
}

func newMemory(maxBytes uint64) (*memory, error) {
	m := &memory{generations: newGenerations(), maxEntry: min(maxBytes/8, math.MaxUint32)}
	var err error
	m.entries, err = otter.New(&otter.Options[string, *entry]{
		MaximumWeight:    maxBytes,
		Weigher:          func(_ string, e *entry) uint32 { return e.weight },
		OnAtomicDeletion: m.onDeletion,
		// In the goroutine that stores: entries are evicted before more are stored, and no
		// goroutine outlives its call.
		Executor: func(task func()) { task() },
	})
	return m, err
}

func (m *memory) onDeletion(event otter.DeletionEvent[string, *entry]) {
	event.Value.method.removed(event.Value)
	if event.WasEvicted() {
		m.evicted.Add(1)
	}
}

// get returns the entry under key, fresh or not, nil if there is none that is valid.
func (m *memory) get(r *rule, key string) *entry {
	e, ok := m.entries.GetIfPresent(key)
	if !ok || !m.generations.valid(r, e) {
		return nil
	}
	if r.maxBytes > 0 && !e.touched.Load() {
		e.touched.Store(true)
	}
	return e
}

// keep stores e, unless it is nil or too large.
func (m *memory) keep(r *rule, e *entry) {
	if e == nil || uint64(e.weight) > m.maxEntry || r.maxBytes > 0 && int64(e.weight) > r.maxBytes || m.closed.Load() {
		return
	}
	if r.maxBytes > 0 {
		m.putWithin(r.maxBytes, e)
	} else {
		m.put(e)
	}
	if m.closed.Load() {
		m.entries.InvalidateAll() // it was closed meanwhile
	}
}

// put stores e, unless the entry there was loaded later.
func (m *memory) put(e *entry) {
	stored := false
	e.method.added(e)
	m.entries.Compute(e.key, func(held *entry, found bool) (*entry, otter.ComputeOp) {
		if found && held.loadNumber > e.loadNumber {
			return nil, otter.CancelOp
		}
		stored = true
		return e, otter.WriteOp
	})
	switch {
	case !stored:
		e.method.removed(e)
	case len(e.vary) == 0:
		e.method.results.stored.Add(1)
	}
}

// drop removes e, unless another entry has replaced it.
func (m *memory) drop(e *entry) {
	if e == nil {
		return
	}
	m.entries.ComputeIfPresent(e.key, func(held *entry) (*entry, otter.ComputeOp) {
		if held == e {
			return nil, otter.InvalidateOp
		}
		return nil, otter.CancelOp
	})
}

// has reports whether this very entry is still stored.
func (m *memory) has(e *entry) bool {
	if e == nil {
		return false
	}
	found, ok := m.entries.GetEntryQuietly(e.key)
	return ok && found.Value == e
}

// clockRing evicts from one method, to keep it within its max_share, by the clock algorithm
// (Corbató, 1968): the entry goes that was stored first and not looked up since the hand
// last passed it.
type clockRing struct {
	mu sync.Mutex
	// entries of the method, in the order in which the hand meets them. Weak, since those
	// that were removed otherwise must not stay in memory for this.
	entries []weak.Pointer[entry]
}

// putWithin stores e after evicting entries of its method until all of them, with e, take
// at most maxBytes.
func (m *memory) putWithin(maxBytes int64, e *entry) {
	ring := &e.method.ring
	ring.mu.Lock()
	defer ring.mu.Unlock()
	if len(ring.entries) > 2*int(e.method.entries.Load())+64 {
		ring.entries = slices.DeleteFunc(ring.entries, func(p weak.Pointer[entry]) bool { return !m.has(p.Value()) })
	}
	for passes := len(ring.entries); len(ring.entries) > 0 && e.method.bytes.Load()+int64(e.weight) > maxBytes; {
		hand := ring.entries[0]
		ring.entries = ring.entries[1:]
		oldest := hand.Value()
		switch {
		case !m.has(oldest):
		case passes > 0 && oldest.touched.CompareAndSwap(true, false):
			ring.entries = append(ring.entries, hand)
			passes--
		default:
			m.entries.Invalidate(oldest.key)
		}
	}
	ring.entries = append(ring.entries, weak.Make(e))
	m.put(e) // under the lock, so that nobody finds it in the ring and not yet stored
}

const (
	// maxSubjects caps the subjects that have a generation of their own: methods and the
	// tags that policies write out. A contract has tens of them.
	maxSubjects = 8192
	// maxSlots is how many generations all other subjects share by their hash. With a
	// chance of one in so many, an entry is invalidated with a stranger, at the price of a
	// call.
	maxSlots = 1 << 16
)

// generations say which entries have been invalidated, without a search for them: each
// invalidation raises a counter, and stores its value as the generation of its subjects.
// An entry is valid while no subject of it has a later generation than the one in which
// the entry's load began. So an invalidation during a load wins over that load.
type generations struct {
	current    atomic.Uint64
	everything generation
	seed       maphash.Seed
	slots      []generation // of subjects that come with a request, by hash

	mu       sync.RWMutex
	literals map[string]*generation // of subjects that policies name
}

// generation is that of a subject's latest invalidation.
type generation struct{ atomic.Uint64 }

func newGenerations() *generations {
	return &generations{seed: maphash.MakeSeed(), slots: make([]generation, maxSlots), literals: map[string]*generation{}}
}

// of returns the generation of a subject that a policy names.
func (g *generations) of(subject string) *generation {
	g.mu.Lock()
	defer g.mu.Unlock()
	if known := g.literals[subject]; known != nil {
		return known
	}
	if len(g.literals) >= maxSubjects {
		return &g.slots[g.slot(subject)]
	}
	made := &generation{}
	g.literals[subject] = made
	return made
}

// slot is the index of the generation of a subject that comes with a request.
func (g *generations) slot(subject string) uint32 {
	return uint32(maphash.String(g.seed, subject) % maxSlots)
}

// invalidate makes all entries invalid that belong to one of subjects and whose load has
// begun.
func (g *generations) invalidate(subjects ...string) {
	now := g.current.Add(1)
	for _, subject := range subjects {
		if subject == everything {
			g.everything.raise(now)
			continue
		}
		g.slots[g.slot(subject)].raise(now)
		g.mu.RLock()
		literal := g.literals[subject]
		g.mu.RUnlock()
		if literal != nil {
			literal.raise(now)
		}
	}
}

func (g *generation) raise(to uint64) {
	for {
		old := g.Load()
		if old >= to || g.CompareAndSwap(old, to) {
			return
		}
	}
}

// valid reports whether nothing that e belongs to has been invalidated since its load
// began.
func (g *generations) valid(r *rule, e *entry) bool {
	if g.everything.Load() > e.generation {
		return false
	}
	for _, subject := range r.invalidatedAt {
		if subject.Load() > e.generation {
			return false
		}
	}
	for _, slot := range e.slots {
		if g.slots[slot].Load() > e.generation {
			return false
		}
	}
	return true
}
