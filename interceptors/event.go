package interceptors

import (
	"context"

	"google.golang.org/grpc/codes"
)

// Event is what a concern did with a call. Concerns publish small values or pointers
// that exist already, such as cache.Result, so that an event allocates nothing.
type Event interface {
	// Place is that of the concern which publishes it.
	Place() Place
	// Result is one word, such as "hit": the value of a label and of a log attribute.
	// A concern has a bounded number of them.
	Result() string
}

// CacheEvent is the result of a cache.
type CacheEvent interface {
	Event
	// Served reports whether the cache answered the call in place of a server or handler.
	Served() bool
}

// LimitEvent is the verdict of one limit on a call. A call may meet several.
type LimitEvent interface {
	Event
	// Limit is the name of a rate limit, or "concurrency".
	Limit() string
	// Decides reports whether this verdict is the one to report for the call: that of the
	// limit that refused, else of one in shadow mode that would have refused, else of the
	// first rate limit.
	Decides() bool
}

// AttemptEvent is the end of one attempt of a call; its result is what follows.
type AttemptEvent interface {
	Event
	StatusCode() codes.Code
}

// Observer receives the events of concerns, in the goroutine of the call. It must be safe
// for concurrent use and fast, and must not keep e: an event may be reused after Observe
// returns. A panic in it fails the call like one in a handler.
type Observer interface {
	Observe(ctx context.Context, meta *CallMeta, e Event)
}

// ObserverFunc is an [Observer] made of a function. A nil one ignores all events.
type ObserverFunc func(ctx context.Context, meta *CallMeta, e Event)

// Observe calls f.
func (f ObserverFunc) Observe(ctx context.Context, meta *CallMeta, e Event) {
	if f != nil {
		f(ctx, meta, e)
	}
}

// Publish passes e to the [Outcome] of the call, if a concern further out listens, and
// then to the concern's own observer, which may be nil.
func Publish(ctx context.Context, meta *CallMeta, observer Observer, e Event) {
	OutcomeOf(ctx, meta).record(e)
	if observer != nil {
		observer.Observe(ctx, meta, e)
	}
}
