package resolver

import (
	"log/slog"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// tables keeps the endpoint tables by target, so that a channel which comes back
// from idleness finds its own.
type tables struct {
	mu   sync.Mutex
	kept map[string]*kept
}

type kept struct {
	directory string // the name of the one asked
	queries   []catalog.Query
	table     *balancer.Table
	users     int
	returned  time.Time
}

// keepTable is how long a table outlives its last channel, and maxTables how many
// there are before one without a channel goes for each that comes.
const (
	keepTable = time.Hour
	maxTables = 1024
)

// borrow gives the table of channels that ask queries of directory. It logs where the first
// of them does.
func (t *tables) borrow(directory string, queries []catalog.Query, log *slog.Logger) (table *balancer.Table, giveBack func()) {
	key := tableKey(directory, queries)
	t.mu.Lock()
	defer t.mu.Unlock()
	for other, k := range t.kept {
		if other != key && k.users == 0 && (time.Since(k.returned) > keepTable || len(t.kept) >= maxTables) {
			delete(t.kept, other)
		}
	}
	k := t.kept[key]
	if k == nil {
		k = &kept{directory: directory, queries: queries, table: balancer.NewTable().WithLogger(log)}
		t.kept[key] = k
	}
	k.users++
	return k.table, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		k.users--
		k.returned = time.Now()
	}
}

// tableKey is what channels must have in common to share a table.
func tableKey(directory string, queries []catalog.Query) string {
	key := directory
	for _, q := range queries {
		key += "?" + q.Key()
	}
	return key
}
