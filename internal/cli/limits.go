package cli

import (
	"context"

	"github.com/meshlite-go/meshlite/internal/limitspage"
)

// LimitsOptions are those of [Limits].
type LimitsOptions struct {
	ProcessesOptions
	Each bool // show each process by itself, and all rows; ignored with JSON
}

// limits are those that a process reports.
type limits struct {
	Limiters    []limitspage.Limiter     `json:"limiters"`
	Concurrency []limitspage.Concurrency `json:"concurrency"`
}

// limited is a process, and the limits in it.
type limited struct {
	process
	limits
}

// Limits shows the limits of processes, and the keys that have used most of them.
func Limits(ctx context.Context, o LimitsOptions, streams Streams) error {
	if err := o.check(); err != nil {
		return err
	}
	replies, err := askProcesses(ctx, o.ProcessesOptions, streams.Err, func(a asker, address string) (limits, error) {
		return a.limits(ctx, address)
	})
	if err != nil {
		return err
	}
	all := make([]limited, len(replies.processes))
	for i, p := range replies.processes {
		all[i] = limited{p, replies.answers[i].listed()}
	}
	if o.Format == JSON {
		return WriteJSON(streams.Out, map[string][]limited{"processes": all})
	}
	return writeLimits(streams.Out, all, o.Each)
}

// limits reads the limits from the admin page at address.
func (a asker) limits(ctx context.Context, address string) (limits, error) {
	var page struct {
		Limits      limitspage.Page
		Concurrency limitspage.ConcurrencyPage
	}
	if err := a.read(ctx, address, &page); err != nil {
		return limits{}, err
	}
	if page.Limits.Limiters == nil || page.Concurrency.Limiters == nil {
		return limits{}, without("limits")
	}
	return limits{page.Limits.Limiters, page.Concurrency.Limiters}, nil
}

// listed has no list that would be null as JSON.
func (l limits) listed() limits {
	l.Limiters = append([]limitspage.Limiter{}, l.Limiters...)
	for i := range l.Limiters {
		one := &l.Limiters[i]
		one.Limits, one.HotKeys = append([]limitspage.Limit{}, one.Limits...), append([]limitspage.HotKey{}, one.HotKeys...)
	}
	l.Concurrency = append([]limitspage.Concurrency{}, l.Concurrency...)
	for i := range l.Concurrency {
		one := &l.Concurrency[i]
		one.Methods = append([]limitspage.Method{}, one.Methods...)
	}
	return l
}
