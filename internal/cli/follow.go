package cli

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// news is that an answer may have changed, or why there is none.
type news struct {
	query int
	err   error
	hint  string // why the answer is empty
	again bool   // it is a second try
}

// view is the latest answer to a query.
type view struct {
	list  []endpoint
	read  bool // whether there was an answer
	again bool // whether another try is under way
	lost  bool // whether there is none now
}

type follower struct {
	directory *consul.Directory
	queries   []catalog.Query
	format    Format
	streams   Streams
	incoming  chan news
	work      sync.WaitGroup
	views     []view
}

// follow writes what changes until ctx ends.
func follow(ctx context.Context, directory *consul.Directory, queries []catalog.Query, format Format, streams Streams) error {
	f := &follower{directory: directory, queries: queries, format: format, streams: streams,
		incoming: make(chan news), views: make([]view, len(queries))}
	ctx, cancel := context.WithCancel(ctx)
	defer f.work.Wait()
	defer cancel()
	for i := range queries {
		f.work.Go(func() { f.watch(ctx, i) })
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case n := <-f.incoming:
			if err := f.take(ctx, n); err != nil {
				return err
			}
		}
	}
}

func (f *follower) watch(ctx context.Context, query int) {
	q := f.queries[query]
	q.Warning = true // else Consul would return passing instances only
	f.directory.Watch(ctx, q, func(s catalog.Snapshot, err error) { f.send(ctx, news{query: query, err: err, hint: s.Hint}) })
}

func (f *follower) send(ctx context.Context, n news) {
	select {
	case f.incoming <- n:
	case <-ctx.Done():
	}
}

// take repeats a query. A watch reports callable instances only, so the full list is
// read beside it. A stale answer may be older than the watch's own; the watch answers
// at least once a minute, which corrects it.
func (f *follower) take(ctx context.Context, n news) error {
	v := &f.views[n.query]
	v.again = v.again && !n.again
	list, err := []endpoint(nil), n.err
	if err == nil {
		if list, err = endpoints(ctx, f.directory, f.queries[n.query]); err != nil {
			f.retry(ctx, n.query)
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return f.lost(v, err)
	default:
		return f.show(n, list)
	}
}

// retryAfter is the pause before a read is tried again, where the watch has no reason
// to try.
const retryAfter = time.Second

func (f *follower) retry(ctx context.Context, query int) {
	v := &f.views[query]
	if v.again {
		return
	}
	v.again = true
	f.work.Go(func() {
		select {
		case <-time.After(retryAfter):
			f.send(ctx, news{query: query, again: true})
		case <-ctx.Done():
		}
	})
}

// show writes what is new in an answer.
func (f *follower) show(n news, list []endpoint) error {
	v := &f.views[n.query]
	if err := f.found(v); err != nil {
		return err
	}
	before, first := v.list, !v.read
	v.list, v.read = list, true
	if first && f.format == Text {
		return f.begin(n, list)
	}
	return f.write(difference(before, list)...)
}

// begin writes the first list, for text output.
func (f *follower) begin(n news, list []endpoint) error {
	if len(list) == 0 {
		text := strings.TrimSuffix("no instance of "+f.queries[n.query].Service+" yet: "+n.hint, ": ")
		_, err := fmt.Fprintf(f.streams.Out, "%s  %s\n", clock(time.Now()), oneLine(text))
		return err
	}
	return writeTable(f.streams.Out, list)
}

// lost reports an outage of Consul once, with its first error.
func (f *follower) lost(v *view, err error) error {
	if v.lost {
		return nil
	}
	v.lost = true
	text := oneLine(err.Error())
	if v.read && f.format == Text {
		text += "; what stands above may be out of date"
	}
	return f.write(event{Event: unavailable, Error: text})
}

func (f *follower) found(v *view) error {
	if !v.lost {
		return nil
	}
	v.lost = false
	return f.write(event{Event: available})
}
