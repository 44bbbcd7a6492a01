package redis

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/rueidis"

	"github.com/meshlite-go/meshlite/internal/redisconn"
)

const (
	defaultPrefix   = "meshlite:cache:"
	defaultMaxValue = 1 << 20
	minMaxValue     = 1 << 10
	maxMaxValue     = 256 << 20 // half of what a Redis string holds
)

// Option changes what [New] makes.
type Option func(*options)

type options struct {
	redisconn.Options
	maxValue int
}

// WithURL says where Redis is: "redis://user:password@host:6379/0", "rediss://" for TLS,
// "unix:///run/redis.sock", with more of [rueidis.ParseURL]. More nodes of a cluster, or
// Sentinels with "master_set=name", follow as "?addr=host2:6379&addr=host3:6379".
func WithURL(url string) Option { return func(o *options) { o.URL = &url } }

// WithClientOption says where Redis is and how to reach it in the options of rueidis, for
// what a URL cannot express, such as client certificates. Reading from replicas is refused,
// since they lag behind invalidations; client-side caching and retries are turned off.
// What is left at zero is set for a cache: one connection for each node, buffers of
// 64 KiB, one second to dial, two seconds until a silent connection is closed.
func WithClientOption(option rueidis.ClientOption) Option {
	return func(o *options) { o.Option = &option }
}

// WithClient uses an existing client, which Close leaves open. It must read from primaries.
// WithTimeout bounds each operation. Its server must be trusted: rueidis may panic at
// replies that no Redis sends, which only connections of our own keep from it.
func WithClient(client rueidis.Client) Option { return func(o *options) { o.Client = client } }

// WithTimeout is how long an operation may take: 1 ms to 10 s, by default 50 ms. It
// takes no more than half of the time that its caller has left.
func WithTimeout(timeout time.Duration) Option { return func(o *options) { o.Timeout = timeout } }

// WithPrefix begins the name of every key and of the channel. Processes with the same
// prefix, and database, share their values; by default it is "meshlite:cache:".
func WithPrefix(prefix string) Option { return func(o *options) { o.Prefix = prefix } }

// WithMaxValueBytes is the largest value that is kept: 1 KiB to 256 MiB, by default 1 MiB.
// At most 256 operations run at once, so it also bounds the memory that they take.
func WithMaxValueBytes(bytes int) Option { return func(o *options) { o.maxValue = bytes } }

// WithLogger logs once when Redis becomes unreachable and once when it is back.
// Default, and nil: slog.Default().
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.Log = log } }

func (o *options) check() error {
	errs := o.Check(defaultPrefix)
	if o.maxValue < minMaxValue || o.maxValue > maxMaxValue {
		errs = append(errs, fmt.Errorf("WithMaxValueBytes: %d is not in %d (1 KiB) to %d (256 MiB): the default is %d", o.maxValue, minMaxValue, maxMaxValue, defaultMaxValue))
	}
	return errors.Join(errs...)
}
