package redis

import "time"

// WithBackoff makes tests quick, and lets them count.
func WithBackoff(first, most time.Duration) Option {
	return func(o *options) { o.backoff, o.maxBackoff = first, most }
}

var SlotOf = slotOf

const MaxFailures, MaxRunning = maxFailures, maxRunning

var Encode, Decode = encode, decode
