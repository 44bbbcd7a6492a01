package cache

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors/cache/cachecontrol"
)

// errNotCached is what only-if-cached is answered (RFC 9111, 5.2.1.7). It is nothing that
// a retry would mend.
var errNotCached = status.Error(codes.FailedPrecondition, "cache: there is no fresh answer, and the call says only-if-cached")

// quick finds a fresh answer where nothing else is to be looked at or done, as most calls
// do. It is nil for all others, and they may have an answer all the same.
func (r *rule) quick(a *asked) *entry {
	if r.shadow || r.eager > 0 || a.wishes != (cachecontrol.Directives{}) {
		return nil
	}
	e, _ := r.lookup(a)
	if r.judge(e, a.wishes, time.Now()) != fresh {
		return nil
	}
	return e
}

// find looks for an answer that is kept, or that another waits for, and has the call made
// if there is none. Then there is no entry: the caller has its answer already, or the
// error, unless an older answer may stand in for it.
func (r *rule) find(ctx context.Context, a *asked) (*entry, Result, error) {
	switch {
	case r.shadow:
		return r.compare(ctx, a)
	case a.wishes.Has(cachecontrol.NoCache | cachecontrol.OnlyIfCached):
		return nil, Miss, errNotCached
	case a.wishes.Has(cachecontrol.NoCache):
		e, key := r.lookup(a)
		return served(r.obtain(ctx, a, key, e))
	}
	e, result, err := r.join(ctx, a)
	if err != nil {
		old, _ := r.lookup(a)
		if old := r.standIn(a, old, err); old != nil && !a.origin.contradicts(old) {
			return old, Stale, nil
		}
	}
	return e, result, err
}

// join has one call made for all that ask the same at the same time.
func (r *rule) join(ctx context.Context, a *asked) (*entry, Result, error) {
	for {
		e, key := r.lookup(a)
		now := time.Now()
		switch r.judge(e, a.wishes, now) {
		case fresh:
			if r.refreshesEarly(e, now) {
				r.refresh(ctx, a, key, e)
			}
			return e, Hit, nil
		case revalidate:
			r.refresh(ctx, a, key, e)
			return e, Stale, nil
		case tolerated:
			return e, Stale, nil
		}
		if a.wishes.Has(cachecontrol.OnlyIfCached) {
			return nil, Miss, errNotCached
		}
		shared, first := r.flights.board(key + a.manner)
		switch {
		case shared == nil:
			return served(r.obtain(ctx, a, key, e))
		case first:
			if late, at := r.lookup(a); at == key && r.judge(late, a.wishes, time.Now()) == fresh { // it has just been stored
				r.flights.land(key+a.manner, shared, outcome{got: obtained{entry: late, result: Hit}})
				return late, Hit, nil
			}
			return served(r.lead(ctx, a, key, e, shared))
		}
		if err := shared.await(ctx); err != nil {
			return nil, Coalesced, err
		}
		switch {
		case shared.err != nil:
			return nil, Coalesced, shared.err
		case shared.alone:
			return served(r.obtain(ctx, a, key, e))
		case shared.got.entry != nil && r.suits(a, key, shared.got):
			return shared.got.entry, Coalesced, nil
		}
	}
}

// served is how a call went that found nothing in memory.
func served(got obtained, err error) (*entry, Result, error) {
	if err != nil || got.given {
		return nil, Miss, err
	}
	return got.entry, got.result, nil
}

// outage reports whether a failure says nothing of what was asked for.
func outage(code codes.Code) bool {
	switch code {
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.DataLoss, codes.DeadlineExceeded:
		return true
	}
	return false
}

// standIn is e if it may be given past its ttl because the call has failed with err, nil
// otherwise (RFC 5861, section 4). Only an outage is such a failure: to be told that
// something is not there is an answer.
func (r *rule) standIn(a *asked, e *entry, err error) *entry {
	if e == nil || !outage(status.Code(err)) || e.failure != nil || r.mustRevalidate || e.terms.mustRevalidate ||
		a.wishes.Any(cachecontrol.NoCache|cachecontrol.MaxAge|cachecontrol.MinFresh) {
		return nil
	}
	window := shorter(r.ifError, e.terms.ifError)
	if wish, ok := a.wishes.Seconds(cachecontrol.StaleIfError); ok {
		window = min(window, wish)
	}
	if window == 0 || time.Since(e.born) >= r.ttlOf(e)+window {
		return nil
	}
	return e
}
