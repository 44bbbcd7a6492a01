package ratelimit

import (
	"context"
	"fmt"
	"sync/atomic"
)

// nearShare is from which part of a limit on a key is near it.
const nearShare = 0.75

// near remembers some of the keys that have lately come near a limit:
// each in one of two places by its hash, which it leaves when it has used less.
// A key that is there already costs a look.
type near struct{ places [256]atomic.Pointer[nearKey] }

type nearKey struct {
	key   key
	rule  *rule
	terms *terms
	value string // as it may be shown
	tat   int64  // that the store has told; 0: it is in the table
}

// level is where the key now stands.
func (n *nearKey) level(now int64, table *Table) (int64, *bucket) {
	if n.tat != 0 {
		return n.tat, nil
	}
	return table.level(now, n.key, n.terms)
}

// used is which share of its limit a key has used, beyond 1 if calls wait.
func (n *nearKey) used(table *Table) float64 {
	now := table.now()
	tat, _ := n.level(now, table)
	return float64(max(tat-now, 0)) / float64(max(n.terms.burst, 1))
}

// note keeps nothing of e but copies.
func (l *Limiter) note(ctx context.Context, e *entry) {
	places := [...]*atomic.Pointer[nearKey]{&l.near.places[e.key.hi>>56], &l.near.places[e.key.lo>>56]}
	tat := int64(0)
	if e.charge.at == atStore {
		tat = e.charge.tat
	}
	for _, place := range places {
		if there := place.Load(); there != nil && there.key == e.key && there.rule == e.rule && there.tat == tat {
			return
		}
	}
	for _, place := range places {
		there := place.Load()
		if there == nil || there.key == e.key || there.used(l.table) < nearShare {
			fresh := &nearKey{key: e.key, rule: e.rule, terms: e.terms, value: e.rule.by.show(ctx, e.key, &l.table.seeds), tat: tat}
			place.CompareAndSwap(there, fresh)
			return
		}
	}
}

// show is the value of a key where it is no secret. Of others it is a hash under
// this process's secret seed, which tells them apart and nothing else.
func (k *keyer) show(ctx context.Context, found key, seeds *seeds) string {
	switch {
	case k.open != nil:
		return k.open(ctx)
	case found == k.limit: // all callers, or those without a value
		return ""
	default:
		bytes := found.of(k.limit).bytes()
		return fmt.Sprintf("#%08x", uint32(seeds.hashBytes(bytes[:]).hi))
	}
}

// nearly reports whether a call has left its key near the limit.
func (e *entry) nearly(now int64) bool {
	return (e.charge.bucket != nil || e.taken != nil) && e.charge.tat-now >= e.terms.burst-e.terms.burst/4
}
