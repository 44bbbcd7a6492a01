package redis

import (
	"errors"
	"log/slog"
	"time"

	"github.com/redis/rueidis"

	"github.com/meshlite-go/meshlite/internal/redisconn"
)

const defaultPrefix = "meshlite:limit:"

// Option changes what [New] makes.
type Option func(*options)

type options struct{ redisconn.Options }

// WithURL is the address of Redis: "redis://user:password@host:6379/0", "rediss://" for TLS,
// "unix:///run/redis.sock", with more of [rueidis.ParseURL]. More nodes of a cluster, or
// Sentinels with "master_set=name", follow as "?addr=host2:6379&addr=host3:6379".
func WithURL(url string) Option { return func(o *options) { o.URL = &url } }

// WithClientOption is the address of Redis and how to reach it as an option of rueidis, for
// what no URL can express, such as client certificates. Reading from replicas is refused;
// client-side caching and retries are turned off. Fields left at zero are set: one
// connection for each node, buffers of 64 KiB, one second to dial, two seconds until a
// silent connection is closed.
func WithClientOption(option rueidis.ClientOption) Option {
	return func(o *options) { o.Option = &option }
}

// WithClient uses an existing client, such as that of a cache, which Close leaves open.
// It must reach primaries, and not repeat commands.
// Replies that no Redis sends are not kept from it, as they are from connections of our
// own: rueidis may panic at them, so the server must be trusted.
func WithClient(client rueidis.Client) Option { return func(o *options) { o.Client = client } }

// WithTimeout is how long a call waits for Redis: 1 ms to 10 s, by default 50 ms. It
// waits for no more than half of the time that its caller has left; so a caller with
// less than twice the time that Redis takes gets on_store_failure of the limit.
func WithTimeout(timeout time.Duration) Option { return func(o *options) { o.Timeout = timeout } }

// WithPrefix begins the name of every key. Processes with the same prefix, and database,
// count together; by default it is "meshlite:limit:".
func WithPrefix(prefix string) Option { return func(o *options) { o.Prefix = prefix } }

// WithLogger logs once when Redis becomes unavailable and once when it is back. Default, and
// nil: slog.Default().
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.Log = log } }

func (o *options) check() error { return errors.Join(o.Check(defaultPrefix)...) }
