package ratelimit

import (
	"fmt"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultMaxKeys = 1 << 17
	minMaxKeys     = 64
	maxMaxKeys     = 1 << 28
	ways           = 8 // buckets in a set: their pointers fill a cache line
	stripes        = 64
)

// Table counts calls by key in bounded memory: 8 bytes for each key that it can
// hold and 48 more for each that it does. It never forgets a key that has used
// up its limit. It is safe for concurrent use; keys that it knows take no lock.
//
// A key has its place in one of two sets, by the halves of its hash, which fills
// the table evenly (Azar et al., "Balanced Allocations").
type Table struct {
	start time.Time // times count from here, so they are monotonic
	seeds seeds
	sets  []set
	crowd set                 // for keys that find no room, by rate
	locks [stripes]sync.Mutex // by key, so that a key is added once
	used  atomic.Int64
	lost  atomic.Uint64
}

type (
	set  [ways]slot
	slot = atomic.Pointer[bucket]
)

// NewTable makes a table with places for maxKeys keys, 64 to 268,435,456, rounded
// up to a power of two. Should all of them be over their limits, the first new
// keys find no room when about three quarters of the places are taken.
func NewTable(maxKeys int) (*Table, error) {
	if maxKeys < minMaxKeys || maxKeys > maxMaxKeys {
		return nil, fmt.Errorf("ratelimit: a table for %d keys: give %d to %d", maxKeys, minMaxKeys, maxMaxKeys)
	}
	sets := 1 << bits.Len(uint((maxKeys-1)/ways))
	return &Table{start: time.Now(), seeds: newSeeds(), sets: make([]set, sets)}, nil
}

// Allow charges cost to key if limit admits it now.
func (t *Table) Allow(key string, limit Limit, cost uint64) Decision {
	terms := limit.terms(cost)
	decision, _ := t.take(t.now(), t.seeds.hash(key), &terms, 0)
	return decision
}

// AllowAt charges cost to key if limit admits it at the time now. Times may come
// in any order: an earlier one than before admits nothing more.
func (t *Table) AllowAt(now time.Time, key string, limit Limit, cost uint64) Decision {
	terms := limit.terms(cost)
	decision, _ := t.take(t.at(now), t.seeds.hash(key), &terms, 0)
	return decision
}

// Peek is the decision that Allow would make, and charges nothing.
func (t *Table) Peek(key string, limit Limit, cost uint64) Decision {
	terms := limit.terms(cost)
	return t.look(t.now(), t.seeds.hash(key), &terms, 0)
}

// PeekAt is the decision that AllowAt would make, and charges nothing.
func (t *Table) PeekAt(now time.Time, key string, limit Limit, cost uint64) Decision {
	terms := limit.terms(cost)
	return t.look(t.at(now), t.seeds.hash(key), &terms, 0)
}

// now costs half of time.Now, which reads the wall clock too.
func (t *Table) now() int64 { return int64(time.Since(t.start)) }

func (t *Table) at(now time.Time) int64 {
	return min(max(int64(now.Sub(t.start)), -longest), longest)
}

// Standing tells where key stands at limit, and charges nothing.
func (t *Table) Standing(key string, limit Limit) Standing {
	terms, now := limit.terms(1), t.now()
	tat, b := t.level(now, t.seeds.hash(key), &terms)
	return standing("", &terms, now, tat, b)
}

// Reset gives key its whole burst again, under whatever limit it is counted.
func (t *Table) Reset(key string) { t.reset(t.seeds.hash(key)) }

func (t *Table) reset(k key) {
	if _, b := t.find(k); b != nil {
		b.refill(t.now())
	}
}

// take decides, and tells what was charged. A call that has to wait is admitted
// if it has to for no longer than patience.
func (t *Table) take(now int64, k key, terms *terms, patience int64) (Decision, charge) {
	if terms.cost == 0 || terms.cost > terms.holds { // needs no place in the table
		return decide(now, now, terms.holds, terms.cost, 0), charge{}
	}
	for {
		_, b := t.find(k)
		if b == nil || b.rate != terms.rate {
			b = t.add(now, k, terms)
		}
		if decision, taken, ok := b.take(now, terms, patience); ok {
			return decision, taken
		}
	}
}

// look decides without making room for a key that is not there.
func (t *Table) look(now int64, k key, terms *terms, patience int64) Decision {
	tat, b := t.level(now, k, terms)
	return decide(tat, now, terms.holds, terms.costAt(now, b), patience)
}

// level is the tat of a key under terms, and its bucket, nil for a new key.
func (t *Table) level(now int64, k key, terms *terms) (int64, *bucket) {
	_, b := t.find(k)
	if b == nil {
		return now, nil
	}
	return b.rate.convert(b.tat.Load(), now, terms.rate), b
}

// sample are the two sets where k may be.
func (t *Table) sample(k key) [2]*set {
	mask := uint64(len(t.sets) - 1)
	return [2]*set{&t.sets[k.hi&mask], &t.sets[k.lo&mask]}
}

// find is nil for a key that is not there. A set fills from its first slot on and
// no slot becomes empty again, so an empty one ends the search.
func (t *Table) find(k key) (*slot, *bucket) {
	for _, s := range t.sample(k) {
		for i := range s {
			b := s[i].Load()
			if b == nil {
				break
			}
			if b.key == k && b.tat.Load() != retired {
				return &s[i], b
			}
		}
	}
	return nil, nil
}

// add makes a bucket for a key that is not there or was counted under another
// rate, whose used share it then keeps. It takes the slot of a bucket only after
// that is retired, so a slot has one writer at a time.
func (t *Table) add(now int64, k key, terms *terms) *bucket {
	lock := &t.locks[k.lo%stripes]
	lock.Lock()
	defer lock.Unlock()
	for {
		fresh := newBucket(now, k, terms)
		at, old := t.find(k)
		if old != nil && old.rate == terms.rate {
			return old
		}
		if old == nil {
			at, old = t.room(now, k)
		}
		if at == nil {
			return t.shared(now, terms)
		}
		if t.put(now, at, old, fresh) {
			return fresh
		}
	}
}

// put reports false if the slot, or the bucket in it, changed in between.
func (t *Table) put(now int64, at *slot, old, fresh *bucket) bool {
	if old == nil {
		if !at.CompareAndSwap(nil, fresh) {
			return false
		}
		t.used.Add(1)
		return true
	}
	tat := old.tat.Load()
	if !old.retire(tat) {
		return false
	}
	switch {
	case old.key == fresh.key:
		fresh.born = old.born
		fresh.tat.Store(old.rate.convert(tat, now, fresh.rate))
	case tat > now:
		t.lost.Add(1)
	}
	at.Store(fresh)
	return true
}

// room finds an empty slot, or else the bucket that has used least of its limit.
// It is nil when all have used it up.
func (t *Table) room(now int64, k key) (at *slot, old *bucket) {
	sample, least := t.sample(k), math.Inf(1)
	for i := range ways {
		for _, s := range sample { // the lowest empty slot is in the emptier set
			b := s[i].Load()
			if b == nil {
				return &s[i], nil
			}
			tat := b.tat.Load()
			if tat == retired || b.over(tat, now) {
				continue
			}
			if load := float64(tat-now) / float64(b.rate.burst); load < least {
				at, old, least = &s[i], b, load
			}
		}
	}
	return at, old
}

// shared is the bucket of all keys under one rate that find no room. The caller
// holds the lock of its key only, so others may come for the same bucket.
func (t *Table) shared(now int64, terms *terms) *bucket {
	at := &t.crowd[uint64(terms.every^terms.burst)%ways]
	for {
		old := at.Load()
		if old != nil && old.rate == terms.rate && old.tat.Load() != retired {
			return old
		}
		fresh := newBucket(now, key{}, terms)
		if t.put(now, at, old, fresh) {
			return fresh
		}
	}
}
