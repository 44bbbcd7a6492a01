package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/meshlite-go/meshlite/interceptors"
)

const (
	defaultMaxBytes = 64 << 20
	minMaxBytes     = 64 << 10
)

// Option changes what [New] makes.
type Option func(*options)

type options struct {
	maxBytes    uint64
	identity    func(context.Context) (string, bool)
	identityKey *string
	observer    interceptors.Observer
	skip        func(context.Context, *interceptors.CallMeta) bool
	trusted     func(context.Context) bool
	store       Store
	log         *slog.Logger
}

// WithMaxBytes bounds the memory that keys, answers and their metadata take: at
// least 64 KiB, by default 64 MiB. An entry above an eighth of it is not kept. Half a MiB
// to tell what is invalid, and what is known of methods, come beside it.
func WithMaxBytes(bytes uint64) Option {
	return func(o *options) { o.maxBytes = bytes }
}

// WithIdentity declares who makes a call. Callers who may be given different
// answers need different identities; a call for which identity reports false is
// neither served from the cache nor stored, unless its answers are public. On the
// server it takes the place of the peer's certificate. It is called once per call,
// concurrently, and may panic like a handler.
func WithIdentity(identity func(context.Context) (string, bool)) Option {
	return func(o *options) { o.identity = identity }
}

// WithIdentityMetadata declares that a caller is who the value of a metadata key
// says: of the outgoing metadata on the client, of the incoming on the server,
// where that is only as true as whoever sets it. A call without it has no identity.
func WithIdentityMetadata(key string) Option {
	return func(o *options) { o.identityKey = &key }
}

// WithObserver sets what receives the [Result] of every call of a method that has a cache
// rule on this side, such as a value of package interceptors/metrics.
func WithObserver(observer interceptors.Observer) Option {
	return func(o *options) { o.observer = observer }
}

// WithSkip passes calls by for which skip reports true: they are neither served from the
// cache nor stored. It is called once per call, concurrently.
func WithSkip(skip func(context.Context, *interceptors.CallMeta) bool) Option {
	return func(o *options) { o.skip = skip }
}

// WithTrusted tells whose cache-control counts on a server: that of callers for whom
// trusted reports true, by their certificate for instance. By default it is nobody's,
// since whoever may say no-cache makes every call run the handler. What a program says on
// its own client counts always.
func WithTrusted(trusted func(context.Context) bool) Option {
	return func(o *options) { o.trusted = trusted }
}

// WithStore shares answers and invalidations with the other processes that use the same
// store, such as one of package redis. Answers that vary by metadata which only they name
// are not shared. Its owner closes it, after the cache.
func WithStore(store Store) Option { return func(o *options) { o.store = store } }

// WithLogger logs to log instead of slog.Default(): refreshes that panic, invalidations
// that other processes were not told.
func WithLogger(log *slog.Logger) Option {
	return func(o *options) { o.log = cmp.Or(log, slog.Default()) }
}

func (o *options) check() error {
	var errs []error
	if o.maxBytes < minMaxBytes {
		errs = append(errs, fmt.Errorf("WithMaxBytes: %d is too little to keep answers: give at least %d (64 KiB)", o.maxBytes, minMaxBytes))
	}
	if o.identity != nil && o.identityKey != nil {
		errs = append(errs, errors.New("WithIdentity and WithIdentityMetadata are both given: choose one"))
	}
	if key := o.identityKey; key != nil && (*key == "" || strings.Trim(*key, "abcdefghijklmnopqrstuvwxyz0123456789_-.") != "") {
		errs = append(errs, fmt.Errorf("WithIdentityMetadata: %q is not a metadata key: write lower case letters, digits and _-. only", *key))
	}
	return errors.Join(errs...)
}
