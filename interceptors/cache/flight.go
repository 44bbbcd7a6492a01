package cache

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxFlights caps the answers that are waited for at once. A call beyond it is made by
// itself.
const maxFlights = 10_000

// flights are the calls under way whose answers others wait for, by key.
type flights struct {
	mu   sync.Mutex
	open map[string]*flight
}

// flight is one call that is made for all that ask the same meanwhile. Who came first
// makes it, with its own context, deadline and options; the others wait. When it has
// landed there is an answer, or a failure that is everybody's, or nothing: then whoever
// is first now makes the call, and all at once if alone.
type flight struct {
	landed chan struct{} // closed when the rest is known
	outcome
}

// outcome is what a flight brings.
type outcome struct {
	got   obtained
	err   error
	alone bool
}

// board answers the flight for key, and whether the caller is the one to make the call.
// It is nil when there are too many.
func (f *flights) board(key string) (shared *flight, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if shared := f.open[key]; shared != nil {
		return shared, false
	}
	if len(f.open) >= maxFlights {
		return nil, true
	}
	if f.open == nil {
		f.open = map[string]*flight{}
	}
	shared = &flight{landed: make(chan struct{})}
	f.open[key] = shared
	return shared, true
}

// land ends a flight. Only the first outcome counts.
func (f *flights) land(key string, shared *flight, brought outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[key] != shared {
		return
	}
	delete(f.open, key)
	shared.outcome = brought
	close(shared.landed)
}

// await waits for the answer of another's call, as long as ctx lasts.
func (s *flight) await(ctx context.Context) error {
	select {
	case <-s.landed:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// errPanicked is what is told of a call that has panicked.
var errPanicked = status.Error(codes.Internal, "the call that was waited for has panicked")

// lead makes the call for all that wait, and shares with them what may be shared: nothing
// once the caller's own context has ended, whatever the error then says, and though the
// call goes on in a handler that does not heed it. A panic frees them with an error and
// goes on.
func (r *rule) lead(ctx context.Context, a *asked, key string, old *entry, shared *flight) (obtained, error) {
	brought := outcome{err: errPanicked}
	defer func() { r.flights.land(key+a.manner, shared, brought) }()
	defer context.AfterFunc(ctx, func() { r.flights.land(key+a.manner, shared, outcome{}) })()
	got, err := r.obtain(ctx, a, key, old)
	brought = outcome{got: got}
	if err != nil && ctx.Err() != nil {
		return got, err
	}
	switch status.Code(err) {
	case codes.OK:
		brought.alone = got.entry == nil || got.own
	case codes.Canceled, codes.DeadlineExceeded: // of an attempt, or of a call that this one has made
		brought.alone = true
	case codes.Unauthenticated, codes.PermissionDenied, codes.ResourceExhausted:
		// What this caller may not, another may, unless all that wait are this caller.
		if brought.alone = r.public; !r.public {
			brought.err = err
		}
	default:
		brought.err = err
	}
	return got, err
}

// suits reports whether what a flight by key has brought is an answer to a, too: it may
// vary by what nobody knew before, be invalid already, or be kept and too old for a.
func (r *rule) suits(a *asked, key string, got obtained) bool {
	if a.variant(got.vary) != key || !r.holds(got.entry) {
		return false
	}
	return got.result == Miss || r.judge(got.entry, a.wishes, time.Now()) == fresh
}
