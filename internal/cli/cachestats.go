package cli

import (
	"context"

	"github.com/meshlite-go/meshlite/internal/cachepage"
)

// CacheStatsOptions are those of [CacheStats].
type CacheStatsOptions struct {
	ProcessesOptions
	Index bool // also list the entries
}

// cached is a process, and the caches in it.
type cached struct {
	process
	Caches []cachepage.Report `json:"caches"`
}

// CacheStats shows what caches do for each method.
func CacheStats(ctx context.Context, o CacheStatsOptions, streams Streams) error {
	if err := o.check(); err != nil {
		return err
	}
	replies, err := askProcesses(ctx, o.ProcessesOptions, streams.Err, func(a asker, address string) ([]cachepage.Report, error) {
		return a.caches(ctx, address)
	})
	if err != nil {
		return err
	}
	all := make([]cached, len(replies.processes))
	for i, p := range replies.processes {
		all[i] = cached{p, append([]cachepage.Report{}, replies.answers[i]...)}
		for j := range all[i].Caches {
			if c := &all[i].Caches[j]; !o.Index || len(c.Index) == 0 {
				c.Index = nil // not even [] is written
			}
		}
	}
	if o.Format == JSON {
		return WriteJSON(streams.Out, map[string][]cached{"processes": all})
	}
	return writeCaches(streams.Out, all, o.Index)
}

// caches reads the caches from the admin page at address.
func (a asker) caches(ctx context.Context, address string) ([]cachepage.Report, error) {
	var page struct {
		Cache cachepage.Page
	}
	if err := a.read(ctx, address, &page); err != nil {
		return nil, err
	}
	if page.Cache.Caches == nil {
		return nil, without("caches")
	}
	return page.Cache.Caches, nil
}
