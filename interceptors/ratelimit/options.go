package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
)

// minSecret is 128 bits.
const minSecret = 16

// Option changes what [New] makes.
type Option func(*options)

type options struct {
	maxKeys  int
	callers  *caller.Callers
	holdBack time.Duration
	fields   bool
	rules    map[string]*functions // by the name of the limit
	given    []string              // options of rules, by name and limit
	errs     []error
	observer interceptors.Observer
	store    Store
	secret   *string
	share    func() float64
	log      *slog.Logger
}

// WithMaxKeys bounds for how many keys the counts are kept: 64 to 268,435,456, by
// default 131,072, which takes 1 MiB at once and 7 MiB when full.
func WithMaxKeys(n int) Option {
	return func(o *options) { o.maxKeys = n }
}

// WithCallers says who calls, for limits by identity and by peer, and whose cost_metadata
// counts. Callers without an identity share one bucket. Default: the identity is that of the
// verified certificate, the address that of the peer, and nobody is trusted.
func WithCallers(callers *caller.Callers) Option {
	return func(o *options) { o.callers = callers }
}

// WithStore counts the calls at limits with store RATE_LIMIT_STORE_EXTERNAL in store, for
// all replicas that use it together. Whoever made the store closes it, after the servers
// and channels. Without one such limits are counted by the share of this process, and a
// warning is logged.
func WithStore(store Store) Option {
	return func(o *options) { o.store = store }
}

// WithSecret hides callers from readers of the store: without the secret, its keys, which
// are digests, cannot be compared with guessed values. All replicas need the same secret,
// of 16 bytes or more; with another one they count apart. Default: none, and then a key
// that can be guessed, such as an address, can be recognized.
func WithSecret(secret string) Option {
	return func(o *options) { o.secret = &secret }
}

// WithShare sets the share of this process in its limits, above 0 and up to 1, for limits
// with store RATE_LIMIT_STORE_PER_REPLICA, and for those whose external store is
// unavailable where on_store_failure is STORE_FAILURE_PER_REPLICA. share is called for each
// such call, so it must be safe for concurrent use and quick. Default: servers of package
// meshlite have their share from Consul; elsewhere, as on a client, it is 1 and a warning
// is logged.
func WithShare(share func() float64) Option {
	return func(o *options) { o.share = share }
}

// WithLogger logs once when limits are counted in another way than their policy says, and
// once a minute that calls are held back. Default: slog.Default().
func WithLogger(log *slog.Logger) Option {
	return func(o *options) { o.log = log }
}

// WithHoldBack bounds for how long a client holds calls back from an instance, or from a
// service, that has refused one with a time to retry after. 0 holds none back. Default: 30
// seconds.
func WithHoldBack(longest time.Duration) Option {
	return func(o *options) { o.holdBack = longest }
}

// WithFields has a server send the RateLimit and RateLimit-Policy fields with every
// call that has a limit, not only with those that are refused.
func WithFields() Option {
	return func(o *options) { o.fields = true }
}

// WithKey counts by what key returns, instead of the key in the policy, at the limits
// of this name. Calls for which it reports false share one bucket. The request is
// nil when a stream opens. It and the functions of the other options are called
// once per call and limit, concurrently, and may panic like a handler.
func WithKey(limit string, key func(ctx context.Context, req any) (string, bool)) Option {
	return func(o *options) { o.function("WithKey", limit, key == nil, func(f *functions) { f.key = key }) }
}

// WithCost sets what a call costs at the limits of this name, instead of the policy or
// metadata. A cost of 0 is not charged; more than the burst is refused. The request
// is nil when a stream opens, and a message where each is charged.
func WithCost(limit string, cost func(ctx context.Context, req any) uint64) Option {
	return func(o *options) { o.function("WithCost", limit, cost == nil, func(f *functions) { f.costOf = cost }) }
}

// WithLimit replaces, for each call, the limit in the policy at the limits of this name. It
// should return the same for the same key: a key whose limit changes keeps the used
// fraction of it, which costs an allocation.
func WithLimit(limit string, of func(ctx context.Context, req any, policy Limit) Limit) Option {
	return func(o *options) { o.function("WithLimit", limit, of == nil, func(f *functions) { f.limitOf = of }) }
}

// WithSkip exempts the calls for which skip reports true from the limits of this
// name.
func WithSkip(limit string, skip func(ctx context.Context, req any) bool) Option {
	return func(o *options) { o.function("WithSkip", limit, skip == nil, func(f *functions) { f.skip = skip }) }
}

// WithSuccess decides by the error of a call whether it has succeeded, for the refunds of
// the limits of this name. Default: the code is OK.
func WithSuccess(limit string, success func(err error) bool) Option {
	return func(o *options) {
		o.function("WithSuccess", limit, success == nil, func(f *functions) { f.success = success })
	}
}

// function sets one of a limit. It may be given once for each limit.
func (o *options) function(option, limit string, missing bool, set func(*functions)) {
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
	set(o.rules[limit])
}

// WithObserver sets what receives an [*Event] of each limit of a call: of all limits of an
// admitted call, of the one that refuses another. Package interceptors/metrics has one.
func WithObserver(observer interceptors.Observer) Option {
	return func(o *options) { o.observer = observer }
}

func (o *options) check() error {
	errs := o.errs
	if o.maxKeys < minMaxKeys || o.maxKeys > maxMaxKeys {
		errs = append(errs, fmt.Errorf("WithMaxKeys: %d keys: give %d to %d", o.maxKeys, minMaxKeys, maxMaxKeys))
	}
	if o.secret != nil && len(*o.secret) < minSecret {
		errs = append(errs, fmt.Errorf("WithSecret: %d bytes: give %d or more, such as by `openssl rand -hex 16`", len(*o.secret), minSecret))
	}
	if o.holdBack < 0 {
		errs = append(errs, fmt.Errorf("WithHoldBack: %v: write a duration from 0 on; 0 turns it off", o.holdBack))
	}
	return errors.Join(errs...)
}
