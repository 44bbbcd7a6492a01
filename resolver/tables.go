package resolver

import (
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
)

// tables keeps the endpoint tables by target, so that a channel which comes back
// from idleness finds its own.
type tables struct {
	mu   sync.Mutex
	kept map[string]*kept
}

type kept struct {
	table    *balancer.Table
	users    int
	returned time.Time
}

// keepTable is how long a table outlives its last channel, and maxTables how many
// there are before one without a channel goes for each that comes.
const (
	keepTable = time.Hour
	maxTables = 1024
)

func (t *tables) borrow(key string) (table *balancer.Table, giveBack func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for other, k := range t.kept {
		if other != key && k.users == 0 && (time.Since(k.returned) > keepTable || len(t.kept) >= maxTables) {
			delete(t.kept, other)
		}
	}
	k := t.kept[key]
	if k == nil {
		k = &kept{table: balancer.NewTable()}
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
