package ratelimit

import (
	"context"
	"time"
)

// Store counts for all replicas together, by its own clock, as the generic cell rate
// algorithm says: of each key it keeps the time at which its bucket will be full. It
// must be safe for concurrent use, and return when its context ends. See package
// interceptors/ratelimit/redis.
//
// A call waits for a store that does not return for 1 s, or half of the time that it has
// left; then it is as if the store had answered an error. Methods run 256 times at once at
// most, and when 16 of them have not returned in time, the store counts as down until they
// do. A panic is an error, too. All are counted, and logged once a minute. A store with a
// method Bounded() bounds itself by what it says: it is called in the goroutine of the
// call, and only panics are caught.
type Store interface {
	// Take decides on charges, each of another key, and answers them in their order.
	// It takes all, or none if one is refused that is not in shadow. Those in shadow
	// are taken if they are admitted. An error is that nothing is known, and means
	// what on_store_failure of the rules says.
	Take(ctx context.Context, charges []Charge) ([]Taken, error)
	// Give gives back of what was taken, and admitted, what has not come back by
	// itself: the cost, or less if the bucket is full earlier after that charge. Of a
	// call whose time is still to come it gives back all if nobody came after it, who
	// has been told a time by it, and else nothing. It tells of how many it gave
	// something.
	Give(ctx context.Context, taken []Taken) (given int, err error)
	// Standing is where the key of c stands. It takes nothing, and is not admitted.
	Standing(ctx context.Context, c Charge) (Taken, error)
	// Reset makes the bucket of the key of c full.
	Reset(ctx context.Context, c Charge) error
}

// Charge is what one call costs at one limit, as time.
type Charge struct {
	// Key stands for the limit and the caller: a digest that shows neither.
	Key [16]byte
	// Cost is how long the limit takes to give the call back: above 0, at most Burst.
	Cost time.Duration
	// Burst is how long it takes to fill an empty bucket. A key whose Burst has
	// changed keeps the share of it that it has used.
	Burst time.Duration
	// Patience is for how long the call would wait.
	Patience time.Duration
	// Shadow is a limit that refuses nothing.
	Shadow bool
}

// Taken is the answer to a charge.
type Taken struct {
	Decision
	Charge Charge
	// Used is how long the bucket now takes to be full.
	Used time.Duration
	// FullAt is when that is by the clock of the store, in nanoseconds since 1970.
	FullAt int64
}
