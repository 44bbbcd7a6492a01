package redisconn

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
	maxPrefix      = 128
	defaultTimeout = 50 * time.Millisecond
	minTimeout     = time.Millisecond
	maxTimeout     = 10 * time.Second
)

// Options are those of every room.
type Options struct {
	URL     *string
	Client  rueidis.Client
	Option  *rueidis.ClientOption
	Timeout time.Duration // of an operation
	Prefix  string        // of every key
	Log     *slog.Logger

	Backoff, MaxBackoff time.Duration // between looks for Redis while it is away
}

// Defaults are the options where nothing is said, for keys that begin with prefix.
func Defaults(prefix string) Options {
	return Options{Timeout: defaultTimeout, Prefix: prefix, Backoff: time.Second, MaxBackoff: 30 * time.Second}
}

// Check finds what is wrong, names the room's option for it and fills in what follows
// from what was given. By default keys begin with prefix.
func (o *Options) Check(prefix string) []error {
	var errs []error
	given := 0
	for _, is := range []bool{o.URL != nil, o.Option != nil, o.Client != nil} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		errs = append(errs, fmt.Errorf("%d of WithURL, WithClientOption and WithClient are given: give one, such as WithURL(\"redis://127.0.0.1:6379\")", given))
	case o.URL != nil:
		option, err := rueidis.ParseURL(*o.URL)
		if err != nil || option.InitAddress[0] == "" {
			errs = append(errs, errors.New("WithURL: this is no URL of Redis (it is not shown, since it may hold a password): write redis://user:password@host:6379/0, rediss:// for TLS or unix:///path, and in a password %2F for / and %40 for @"))
		}
		o.Option = &option
	case o.Option != nil:
		if err := checkOption(o.Option); err != nil {
			errs = append(errs, err)
		}
	}
	if o.Timeout < minTimeout || o.Timeout > maxTimeout {
		errs = append(errs, fmt.Errorf("WithTimeout: %v is not in 1ms to 10s: the default is %v", o.Timeout, defaultTimeout))
	}
	if o.Prefix == "" || len(o.Prefix) > maxPrefix || strings.ContainsFunc(o.Prefix, func(r rune) bool { return r <= ' ' || r > '~' }) {
		errs = append(errs, fmt.Errorf("WithPrefix: %q is not 1 to %d printable ASCII characters without spaces: the default is %q", o.Prefix, maxPrefix, prefix))
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return errs
}

func checkOption(o *rueidis.ClientOption) error {
	switch {
	case len(o.InitAddress) == 0 || o.InitAddress[0] == "":
		return errors.New("WithClientOption: InitAddress is empty: name a server, such as 127.0.0.1:6379")
	case strings.Contains(strings.Join(o.InitAddress, ""), "@"):
		return errors.New("WithClientOption: InitAddress has user information (it is not shown): write host:port, and set Username and Password")
	case o.ReplicaOnly || o.SendToReplicas != nil || len(o.Standalone.ReplicaAddress) > 0:
		return errors.New("WithClientOption: ReplicaOnly, SendToReplicas and Standalone.ReplicaAddress read what replicas do not have yet: leave them out")
	case o.PipelineMultiplex > rueidis.MaxPipelineMultiplex:
		return fmt.Errorf("WithClientOption: PipelineMultiplex %d is above %d: leave it out", o.PipelineMultiplex, rueidis.MaxPipelineMultiplex)
	default:
		return nil
	}
}

// filled sets what o leaves open. An operation is over long before rueidis would try
// it again, and a single connection is one whose health is known.
func filled(o rueidis.ClientOption) rueidis.ClientOption {
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
