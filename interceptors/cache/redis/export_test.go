package redis

import (
	"time"

	"github.com/meshlite-go/meshlite/internal/redisconn"
)

// WithBackoff makes tests quick, and lets them count.
func WithBackoff(first, most time.Duration) Option {
	return func(o *options) { o.Backoff, o.MaxBackoff = first, most }
}

var SlotOf = slotOf

const MaxFailures, MaxRunning = redisconn.MaxFailures, redisconn.MaxRunning

var Encode, Decode = encode, decode
