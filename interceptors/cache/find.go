package cache

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// find looks for an answer that is kept, or that another waits for, and makes the call if
// there is none. Then there is no entry: the caller has its answer already, or the error,
// unless an older answer may stand in for it.
func (r *rule) find(ctx context.Context, key string, call func() (*entry, error)) (*entry, Result, error) {
	e, result, err := r.share(ctx, key, call)
	if err != nil {
		if old := r.standIn(key, err); old != nil {
			return old, Stale, nil
		}
	}
	return e, result, err
}

func (r *rule) share(ctx context.Context, key string, call func() (*entry, error)) (*entry, Result, error) {
	for {
		if e := r.load(key); e != nil {
			return e, Hit, nil
		}
		shared, first := r.flights.board(key)
		switch {
		case shared == nil:
			_, err := call()
			return nil, Miss, err
		case first:
			if e := r.load(key); e != nil { // it has just been stored
				shared.entry = e
				r.flights.land(key, shared)
				return e, Hit, nil
			}
			return nil, Miss, r.lead(ctx, key, shared, call)
		}
		if err := shared.await(ctx); err != nil {
			return nil, Coalesced, err
		}
		switch {
		case shared.err != nil:
			return nil, Coalesced, shared.err
		case shared.entry != nil:
			return shared.entry, Coalesced, nil
		case shared.alone:
			_, err := call()
			return nil, Miss, err
		}
	}
}

// standIn is the answer that is kept past its ttl and may be given because the call has
// failed, nil if there is none (RFC 5861, section 4). Only an outage is such a failure: to
// be told that something is not there is an answer.
func (r *rule) standIn(key string, err error) *entry {
	switch status.Code(err) {
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.DataLoss, codes.DeadlineExceeded:
	default:
		return nil
	}
	if r.staleIfError == 0 {
		return nil
	}
	e, ok := r.entries.GetIfPresent(key)
	if !ok || e.failure != nil || time.Since(e.stored) >= r.ttl+r.staleIfError {
		return nil
	}
	return e
}
