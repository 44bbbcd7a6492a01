package cache

import (
	"context"
	"time"
)

// Store is a second level which several processes share, such as Redis. Its methods are
// called concurrently, must return when their context ends, and must be quick to fail
// while the store is away: a call waits for Load.
//
// A call waits for a store that does not return for 1 s, or half of the time that it has
// left, and goes on as if nothing was there. Load and Invalidate run 256 times at once at
// most, and when 16 of them have not returned in time, the store counts as down until they
// do. A panic is an error of the store. Both are counted, and logged once a minute. A
// store with a method Bounded() bounds itself by what it says: it is called in the
// goroutine of the call, and only panics are caught.
//
// Values belong to subjects: everything, a method, a tag, a request. Invalidating one of
// them makes all values that belong to it unreachable, those too whose load is under way.
type Store interface {
	// Load finds the value of key, nil if there is none, and how much is left of its ttl, and
	// the ticket by which Save keeps a value that is loaded from now on.
	Load(ctx context.Context, key string, subjects []string) (value []byte, left time.Duration, ticket string, err error)
	// Save keeps a value for ttl where Load finds it, unless one of the subjects that Load
	// was given has been invalidated since.
	Save(ctx context.Context, ticket string, value []byte, ttl time.Duration) error
	// Invalidate makes the values of all these subjects unreachable, now or as soon as the
	// store is back, and tells the processes that have subscribed.
	Invalidate(ctx context.Context, subjects []string) error
	// Subscribe calls invalidated with the subjects that any process invalidates, and with
	// nil when some may have been missed. It returns at once. Cancel ends that and waits for the last call.
	Subscribe(invalidated func(subjects []string)) (cancel func())
}
