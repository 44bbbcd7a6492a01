package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Option changes what [New] makes.
type Option func(*options)

type options struct {
	maxKeys     int
	identity    func(context.Context) (string, bool)
	identityKey *string
	observe     func(*interceptors.CallMeta, string, Result)
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

// WithIdentityMetadata declares that a caller is who the value of a metadata key
// says: of the incoming metadata on the server, where that is only as true as
// whoever sets it, of the outgoing on the client.
func WithIdentityMetadata(key string) Option {
	return func(o *options) { o.identityKey = &key }
}

// WithObserver has observe called with the name of each limit that a call met and
// what became of it: all limits of an admitted call, the one that refused another.
// It must be safe for concurrent use and quick.
func WithObserver(observe func(meta *interceptors.CallMeta, limit string, result Result)) Option {
	return func(o *options) { o.observe = observe }
}

func (o *options) check() error {
	var errs []error
	if o.maxKeys < minMaxKeys || o.maxKeys > maxMaxKeys {
		errs = append(errs, fmt.Errorf("WithMaxKeys: %d keys: give %d to %d", o.maxKeys, minMaxKeys, maxMaxKeys))
	}
	if o.identity != nil && o.identityKey != nil {
		errs = append(errs, errors.New("WithIdentity and WithIdentityMetadata are both given: choose one"))
	}
	if key := o.identityKey; key != nil && (*key == "" || strings.Trim(*key, "abcdefghijklmnopqrstuvwxyz0123456789_-.") != "") {
		errs = append(errs, fmt.Errorf("WithIdentityMetadata: %q is not a metadata key: write lower case letters, digits and _-. only", *key))
	}
	return errors.Join(errs...)
}
