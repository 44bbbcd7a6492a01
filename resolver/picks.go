package resolver

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Picks is how the calls to one target are picked: the endpoints of its channels and their
// state. Latencies are in milliseconds, parts of a whole go from 0 to 1. Channels with a policy
// of another module have no endpoints here.
type Picks struct {
	Directory string          `json:"directory"` // its name
	Service   string          `json:"service"`
	Queries   []catalog.Query `json:"queries"`  // one for each datacenter, in the order of failover
	Channels  int             `json:"channels"` // that share the endpoints
	balancer.TableStats
}

// Picks tells of the targets that channels use now, idle ones left out, sorted by
// directory, service and queries. It is safe for concurrent use. What it tells is a
// copy, but the queries, which must not be changed.
func (b *Builder) Picks() []Picks {
	used := b.tables.used()
	all := make([]Picks, len(used))
	for i, k := range used {
		all[i] = Picks{
			Directory: k.directory, Service: k.queries[0].Service, Queries: k.queries, Channels: k.users,
			TableStats: k.table.Stats(),
		}
	}
	return all
}

// used are copies of the entries that channels have borrowed, in order.
func (t *tables) used() []kept {
	t.mu.Lock()
	defer t.mu.Unlock()
	var used []kept
	for _, key := range slices.Sorted(maps.Keys(t.kept)) {
		if k := t.kept[key]; k.users > 0 {
			used = append(used, *k)
		}
	}
	slices.SortStableFunc(used, func(a, b kept) int {
		return cmp.Or(cmp.Compare(a.directory, b.directory), cmp.Compare(a.queries[0].Service, b.queries[0].Service))
	})
	return used
}
