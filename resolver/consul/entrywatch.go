package consul

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// entryWatch is a loop of blocking queries for what is not a list of instances, such as
// intentions, paced as those for instances.
type entryWatch[V any] struct {
	*watch
	had   bool // the last answer was not empty
	slots slots

	// read sends one query. It returns V, whether that is empty, and its index.
	read func(context.Context, *api.QueryOptions) (V, bool, uint64, error)
	// complete, if not nil, adds what another query reads.
	complete func(context.Context, V) (V, error)
}

// slots are the slots of a watch's queries.
type slots interface {
	// next waits for the next one. The first query is to be answered at once.
	next(ctx context.Context, first bool) (slot, error)
	close()
}

// inTurn are slots of a pool as those of all watches.
type inTurn struct{ *Directory }

func (s inTurn) next(ctx context.Context, first bool) (slot, error) {
	return s.pool.acquire(ctx, s.wait, first)
}

func (inTurn) close() {}

func newEntryWatch[V any](d *Directory, service string) *entryWatch[V] {
	return &entryWatch[V]{watch: newWatch(d, catalog.Query{Service: service}), slots: inTurn{d}}
}

func (w *entryWatch[V]) run(ctx context.Context, report func(V, error)) {
	defer w.slots.close()
	for w.limiter.Wait(ctx) == nil {
		v, a, err := w.next(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errTakeTurns):
			continue
		}
		report(v, err)
		pause(ctx, w.pace(a, err))
	}
}

// next waits for a connection of the pool, and for an answer. One that is empty all at once, or
// of an older index, is read again from the leader.
func (w *entryWatch[V]) next(ctx context.Context) (v V, a answer, err error) {
	slot, err := w.slots.next(ctx, w.index == 0)
	if err != nil {
		return v, a, err
	}
	defer slot.release()
	options := &api.QueryOptions{WaitTime: slot.wait}
	if slot.wait > 0 {
		options.WaitIndex = w.index
	}
	sentAt := time.Now()
	v, empty, index, err := w.once(slot, options)
	if err != nil {
		return v, a, err
	}
	a = answer{Snapshot: catalog.Snapshot{Index: index}, early: time.Since(sentAt) < slot.wait, regressed: max(index, 1) < w.index}
	if a.regressed || w.had && empty {
		w.limiter.Reserve()
		if v, empty, a.Index, err = w.once(ctx, &api.QueryOptions{RequireConsistent: true}); err != nil {
			return v, a, err
		}
		a.confirmed, a.early = true, true
	}
	w.had = !empty
	if w.complete != nil {
		v, err = w.complete(ctx, v)
	}
	return v, a, err
}

// once sends one query.
func (w *entryWatch[V]) once(ctx context.Context, options *api.QueryOptions) (V, bool, uint64, error) {
	bounded, cancel := boundQuery(ctx, options.WaitTime)
	defer cancel()
	v, empty, index, err := w.read(bounded, options)
	if err != nil && errors.Is(context.Cause(ctx), errTakeTurns) {
		err = errTakeTurns
	}
	return v, empty, index, err
}
