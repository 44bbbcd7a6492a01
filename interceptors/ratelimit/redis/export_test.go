package redis

import (
	"time"

	"github.com/meshlite-go/meshlite/internal/redisconn"
)

// WithBackoff makes tests quick, and lets them count.
func WithBackoff(first, most time.Duration) Option {
	return func(o *options) { o.Backoff, o.MaxBackoff = first, most }
}

const MaxFailures = redisconn.MaxFailures

var Parse = parse
