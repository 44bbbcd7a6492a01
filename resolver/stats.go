package resolver

import (
	"cmp"
	"slices"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Stats is what one watch of a builder knows and has done since it was opened.
type Stats struct {
	Directory string        `json:"directory"` // the name of the one asked
	Query     catalog.Query `json:"query"`
	Channels  int           `json:"channels"` // that share the watch

	// Answered is when the directory told what is known; zero is never. An answer
	// that has not changed comes at each end of a blocking query too; a snapshot
	// or an earlier watch may have been told long ago.
	Answered time.Time `json:"answered,omitzero"`
	Error    string    `json:"error,omitempty"` // of the last query; empty is none
	Answers  uint64    `json:"answers"`
	Failures uint64    `json:"failures"`

	// Passing and Warning are the instances that calls may go to, of which
	// WithSubset takes a part for each channel; Held, of these, those that are not
	// in the last answer and wait for the grace time.
	Passing int `json:"passing"`
	Warning int `json:"warning"`
	Held    int `json:"held"`
	// Critical and Maintenance are those that the health checks keep out. Panicking is
	// whether so few are left that they are called, too, unless another datacenter has
	// healthy ones.
	Critical    int  `json:"critical"`
	Maintenance int  `json:"maintenance"`
	Panicking   bool `json:"panicking"`
}

// Stats tells of all open watches, sorted by directory and service.
func (b *Builder) Stats() []Stats {
	b.watches.mu.Lock()
	open := make([]*watch, 0, len(b.watches.open))
	for _, w := range b.watches.open {
		open = append(open, w)
	}
	b.watches.mu.Unlock()
	all := make([]Stats, len(open))
	for i, w := range open {
		all[i] = w.stats()
	}
	slices.SortFunc(all, func(a, b Stats) int {
		return cmp.Or(cmp.Compare(a.Directory, b.Directory), cmp.Compare(a.Query.Service, b.Query.Service), cmp.Compare(a.Query.Key(), b.Query.Key()))
	})
	return all
}

func (w *watch) stats() Stats {
	now := w.look()
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Stats{
		Directory: w.directory, Query: w.query, Channels: len(w.subscriptions),
		Answered: now.told, Answers: w.answers, Failures: w.failures,
		Held: now.holding, Panicking: now.panicking > 0 || len(now.unhealthy) > 0,
	}
	if now.err != nil {
		s.Error = now.err.Error()
	}
	list := now.list
	if !now.known {
		list = now.before
	}
	count := func(list []catalog.Instance, status catalog.Status) (n int) {
		for i := range list {
			if list[i].Status == status {
				n++
			}
		}
		return n
	}
	s.Passing, s.Warning = count(list, catalog.Passing), count(list, catalog.Warning)
	s.Critical, s.Maintenance = count(w.unhealthy, catalog.Critical), count(w.unhealthy, catalog.Maintenance)
	return s
}
