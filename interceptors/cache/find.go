package cache

import "context"

// find looks for an answer that is kept, or that another waits for. If there is none it
// makes the call, and there is no entry: the caller has its answer already, or the error.
func (r *rule) find(ctx context.Context, key string, call func() (*entry, error)) (*entry, Result, error) {
	for {
		if e := r.load(key); e != nil {
			return e, Hit, nil
		}
		shared, first := r.flights.board(key)
		switch {
		case shared == nil:
			_, err := call()
			return nil, 0, err
		case first:
			if e := r.load(key); e != nil { // it has just been stored
				shared.entry = e
				r.flights.land(key, shared)
				return e, Hit, nil
			}
			return nil, 0, r.lead(key, shared, call)
		}
		if err := shared.await(ctx); err != nil {
			r.finish(Coalesced)
			return nil, 0, err
		}
		switch {
		case shared.err != nil:
			r.finish(Coalesced)
			return nil, 0, shared.err
		case shared.entry != nil:
			return shared.entry, Coalesced, nil
		case shared.alone:
			_, err := call()
			return nil, 0, err
		}
	}
}
