package redis

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

const (
	defaultPrefix   = "meshlite:cache:"
	maxPrefix       = 128
	defaultTimeout  = 50 * time.Millisecond
	minTimeout      = time.Millisecond
	maxTimeout      = 10 * time.Second
	defaultMaxValue = 1 << 20
	minMaxValue     = 1 << 10
	maxMaxValue     = 256 << 20 // half of what a Redis string holds
)

// Option changes what [New] makes.
type Option func(*options)

type options struct {
	url      *string
	client   rueidis.Client
	option   *rueidis.ClientOption
	timeout  time.Duration
	prefix   string
	maxValue int
	log      *slog.Logger

	backoff, maxBackoff time.Duration
}

// WithURL says where Redis is: "redis://user:password@host:6379/0", "rediss://" for TLS,
// "unix:///run/redis.sock", with more of [rueidis.ParseURL]. More nodes of a cluster, or
// Sentinels with "master_set=name", follow as "?addr=host2:6379&addr=host3:6379".
func WithURL(url string) Option { return func(o *options) { o.url = &url } }

// WithClientOption says where Redis is and how to reach it in the terms of rueidis, for
// what no URL can say, such as client certificates. Reading from replicas is refused,
// since they lag behind invalidations; client-side caching and retries are turned off.
// What is left at zero is set for a cache: one connection for each node, buffers of
// 64 KiB, one second to dial, two seconds until a silent connection is given up.
func WithClientOption(option rueidis.ClientOption) Option {
	return func(o *options) { o.option = &option }
}

// WithClient uses a client that is there already, and which Close leaves open. It must
// read from primaries. What it waits for in one operation is bounded by WithTimeout.
func WithClient(client rueidis.Client) Option { return func(o *options) { o.client = client } }

// WithTimeout is how long an operation may take: 1 ms to 10 s, by default 50 ms. It
// takes no more than half of the time that its caller has left.
func WithTimeout(timeout time.Duration) Option { return func(o *options) { o.timeout = timeout } }

// WithPrefix begins the name of every key and of the channel. Processes with the same
// prefix, and database, share their values; by default it is "meshlite:cache:".
func WithPrefix(prefix string) Option { return func(o *options) { o.prefix = prefix } }

// WithMaxValueBytes is the largest value that is kept: 1 KiB to 256 MiB, by default 1 MiB.
// At most 256 operations run at once, so it also bounds the memory that they take.
func WithMaxValueBytes(bytes int) Option { return func(o *options) { o.maxValue = bytes } }

// WithLogger hears once when Redis goes away and once when it is back. By default that is
// slog.Default().
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

func (o *options) check() error {
	var errs []error
	given := 0
	for _, is := range []bool{o.url != nil, o.option != nil, o.client != nil} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		errs = append(errs, fmt.Errorf("%d of WithURL, WithClientOption and WithClient are given: give one, such as WithURL(\"redis://127.0.0.1:6379\")", given))
	case o.url != nil:
		option, err := rueidis.ParseURL(*o.url)
		if err != nil || option.InitAddress[0] == "" {
			errs = append(errs, errors.New("WithURL: this is no URL of Redis (it is not shown, since it may hold a password): write redis://user:password@host:6379/0, rediss:// for TLS or unix:///path, and in a password %2F for / and %40 for @"))
		}
		o.option = &option
	case o.option != nil:
		errs = append(errs, checkOption(o.option))
	}
	if o.timeout < minTimeout || o.timeout > maxTimeout {
		errs = append(errs, fmt.Errorf("WithTimeout: %v is not in 1ms to 10s: the default is %v", o.timeout, defaultTimeout))
	}
	if o.prefix == "" || len(o.prefix) > maxPrefix || strings.ContainsFunc(o.prefix, func(r rune) bool { return r <= ' ' || r > '~' }) {
		errs = append(errs, fmt.Errorf("WithPrefix: %q is not 1 to %d printable ASCII characters without spaces: the default is %q", o.prefix, maxPrefix, defaultPrefix))
	}
	if o.maxValue < minMaxValue || o.maxValue > maxMaxValue {
		errs = append(errs, fmt.Errorf("WithMaxValueBytes: %d is not in %d (1 KiB) to %d (256 MiB): the default is %d", o.maxValue, minMaxValue, maxMaxValue, defaultMaxValue))
	}
	return errors.Join(errs...)
}

func checkOption(o *rueidis.ClientOption) error {
	switch {
	case len(o.InitAddress) == 0 || o.InitAddress[0] == "":
		return errors.New("WithClientOption: InitAddress is empty: name a server, such as 127.0.0.1:6379")
	case o.ReplicaOnly || o.SendToReplicas != nil || len(o.Standalone.ReplicaAddress) > 0:
		return errors.New("WithClientOption: ReplicaOnly, SendToReplicas and Standalone.ReplicaAddress read what was invalidated: leave them out")
	case o.PipelineMultiplex > rueidis.MaxPipelineMultiplex:
		return fmt.Errorf("WithClientOption: PipelineMultiplex %d is above %d: leave it out", o.PipelineMultiplex, rueidis.MaxPipelineMultiplex)
	default:
		return nil
	}
}

// forCache sets what o leaves open. An operation is over long before rueidis would try
// it again, and a single connection is one whose health is known.
func forCache(o rueidis.ClientOption) rueidis.ClientOption {
	o.DisableCache = true
	o.DisableRetry = true
	// Else an operation that is late takes its connection with it.
	o.AlwaysPipelining = !o.DisableAutoPipelining
	o.PipelineMultiplex = cmp.Or(o.PipelineMultiplex, -1)
	o.Dialer.Timeout = cmp.Or(o.Dialer.Timeout, time.Second)
	o.ConnWriteTimeout = cmp.Or(o.ConnWriteTimeout, 2*time.Second)
	o.ReadBufferEachConn = cmp.Or(o.ReadBufferEachConn, 64<<10)
	o.WriteBufferEachConn = cmp.Or(o.WriteBufferEachConn, 64<<10)
	return o
}
