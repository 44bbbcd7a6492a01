package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/interceptors"
)

// minSecret is 128 bits.
const minSecret = 16

// Option changes what [New] makes.
type Option func(*options)

type options struct {
	maxKeys     int
	trusted     trust
	holdBack    time.Duration
	fields      bool
	rules       map[string]*functions // by the name of the limit
	given       []string              // options of rules, by name and limit
	errs        []error
	identity    func(context.Context) (string, bool)
	identityKey *string
	observer    interceptors.Observer
	store       Store
	secret      *string
	share       func() float64
	log         *slog.Logger
}

// WithMaxKeys bounds for how many keys the counts are kept: 64 to 268,435,456, by
// default 131,072, which takes 1 MiB at once and 7 MiB when full.
func WithMaxKeys(n int) Option {
	return func(o *options) { o.maxKeys = n }
}

// WithIdentity declares who makes a call, for limits by identity. Calls for which
// it reports false share one bucket. It is called once per call and limit,
// concurrently, and may panic like a handler.
func WithIdentity(identity func(context.Context) (string, bool)) Option {
	return func(o *options) { o.identity = identity }
}

// WithIdentityMetadata declares that a caller is who the value of a metadata key, of which
// there may be one, says: of the incoming metadata on the server, where that is only as true as
// whoever sets it, of the outgoing on the client.
func WithIdentityMetadata(key string) Option {
	return func(o *options) { o.identityKey = &key }
}

// WithTrustedPrefixes declares from which networks peers are believed: the proxies
// whose x-forwarded-for says who calls, and the peers whose cost_metadata counts. An
// address in x-forwarded-for counts if all to the right of it, and the peer, are in
// one of prefixes. Default: nobody is believed.
func WithTrustedPrefixes(prefixes ...netip.Prefix) Option {
	return func(o *options) { o.trusted = append(o.trusted, prefixes...) }
}

// WithStore counts in store the calls that limits with store RATE_LIMIT_STORE_EXTERNAL
// admit: those of all replicas that use it together. Whoever made the store closes it,
// after the servers and channels. Without one such limits are counted by the share of
// this process, and a warning says so.
func WithStore(store Store) Option {
	return func(o *options) { o.store = store }
}

// WithSecret keeps who calls from those who may read the store: keys in it are digests
// that nobody can guess values by who does not know secret. All replicas need the same,
// of 16 bytes or more; another one is another count. Default: none, and then a key
// that can be guessed, such as an address, can be found out.
func WithSecret(secret string) Option {
	return func(o *options) { o.secret = &secret }
}

// WithShare tells which part of the whole this process is, above 0 and up to 1: it
// admits that part of the limits with store RATE_LIMIT_STORE_PER_REPLICA, and of those whose
// shared store is away where on_store_failure is STORE_FAILURE_PER_REPLICA. share is called
// for each such call, so it must be safe for concurrent use and quick. The servers of
// package meshlite know their share from Consul; without that, as on a client, it is 1
// and a warning says so.
func WithShare(share func() float64) Option {
	return func(o *options) { o.share = share }
}

// WithLogger hears once when limits are counted in another way than their policy says.
// Default: slog.Default().
func WithLogger(log *slog.Logger) Option {
	return func(o *options) { o.log = log }
}

// WithHoldBack bounds for how long a client keeps calls from an instance, or from a
// service, that has refused one and said when to come again. 0 leaves it to the server to
// refuse them. Default: 30 seconds.
func WithHoldBack(longest time.Duration) Option {
	return func(o *options) { o.holdBack = longest }
}

// WithFields has a server send the RateLimit and RateLimit-Policy fields with every
// call that has a limit, not only with those that are refused.
func WithFields() Option {
	return func(o *options) { o.fields = true }
}

// WithKey counts by what key gives, instead of the key in the policy, at the limits
// of this name. Calls for which it reports false share one bucket. The request is
// nil when a stream opens. It and the functions of the other options are called
// once per call and limit, concurrently, and may panic like a handler.
func WithKey(limit string, key func(ctx context.Context, req any) (string, bool)) Option {
	return func(o *options) { o.function("WithKey", limit, key == nil, func(f *functions) { f.key = key }) }
}

// WithCost has cost tell what a call costs at the limits of this name, instead of
// the policy or metadata. 0 is nothing; more than the burst is refused. The request
// is nil when a stream opens, and a message where each is charged.
func WithCost(limit string, cost func(ctx context.Context, req any) uint64) Option {
	return func(o *options) { o.function("WithCost", limit, cost == nil, func(f *functions) { f.costOf = cost }) }
}

// WithLimit has of tell the limit that a call meets at the limits of this name,
// given the one in the policy. It should tell the same for the same key: a key
// whose limit changes keeps the share of it that it has used, which costs an
// allocation.
func WithLimit(limit string, of func(ctx context.Context, req any, policy Limit) Limit) Option {
	return func(o *options) { o.function("WithLimit", limit, of == nil, func(f *functions) { f.limitOf = of }) }
}

// WithSkip exempts the calls for which skip reports true from the limits of this
// name.
func WithSkip(limit string, skip func(ctx context.Context, req any) bool) Option {
	return func(o *options) { o.function("WithSkip", limit, skip == nil, func(f *functions) { f.skip = skip }) }
}

// WithSuccess has success tell, by the error of a call, whether the refund of the
// limits of this name takes it for one that succeeded. Default: the code is OK.
func WithSuccess(limit string, success func(err error) bool) Option {
	return func(o *options) {
		o.function("WithSuccess", limit, success == nil, func(f *functions) { f.success = success })
	}
}

// function notes one of a limit. Two of one kind for one limit are an error.
func (o *options) function(option, limit string, missing bool, note func(*functions)) {
	name := fmt.Sprintf("%s(%q)", option, limit)
	if missing {
		o.errs = append(o.errs, fmt.Errorf("%s: the function is nil: leave the option out", name))
	}
	if slices.Contains(o.given, name) {
		o.errs = append(o.errs, fmt.Errorf("%s is given twice: leave one out", name))
	}
	o.given = append(o.given, name)
	if o.rules == nil {
		o.rules = map[string]*functions{}
	}
	if o.rules[limit] == nil {
		o.rules[limit] = &functions{}
	}
	note(o.rules[limit])
}

// WithObserver sets what receives an [*Event] of each limit that a call met: of all limits
// for an admitted call, of the one that refused for another. Package interceptors/metrics
// has one.
func WithObserver(observer interceptors.Observer) Option {
	return func(o *options) { o.observer = observer }
}

func (o *options) check() error {
	errs := o.errs
	if o.maxKeys < minMaxKeys || o.maxKeys > maxMaxKeys {
		errs = append(errs, fmt.Errorf("WithMaxKeys: %d keys: give %d to %d", o.maxKeys, minMaxKeys, maxMaxKeys))
	}
	if o.identity != nil && o.identityKey != nil {
		errs = append(errs, errors.New("WithIdentity and WithIdentityMetadata are both given: choose one"))
	}
	if key := o.identityKey; key != nil && (*key == "" || strings.Trim(*key, "abcdefghijklmnopqrstuvwxyz0123456789_-.") != "") {
		errs = append(errs, fmt.Errorf("WithIdentityMetadata: %q is not a metadata key: write lower case letters, digits and _-. only", *key))
	}
	for _, prefix := range o.trusted {
		if !prefix.IsValid() || prefix.Addr().Is4In6() {
			errs = append(errs, fmt.Errorf("WithTrustedPrefixes: %v is no network: write one such as 10.0.0.0/8 or fd00::/8", prefix))
		}
	}
	if o.secret != nil && len(*o.secret) < minSecret {
		errs = append(errs, fmt.Errorf("WithSecret: %d bytes: give %d or more, such as by `openssl rand -hex 16`", len(*o.secret), minSecret))
	}
	if o.holdBack < 0 {
		errs = append(errs, fmt.Errorf("WithHoldBack: %v: write a duration from 0 on; 0 turns it off", o.holdBack))
	}
	return errors.Join(errs...)
}
