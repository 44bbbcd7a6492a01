// Package rpc has what several concerns do with any gRPC call: read its status, its name and
// its metadata, notice its end, keep something for each method.
//
//	var series rpc.Table[string, *series]
//	s, ok := series.Of(method, newSeries)
//	stream, err := rpc.OpenStream(ctx, desc, cc, method, streamer, opts, func(err error) { s.end(rpc.Code(err)) })
package rpc

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// ErrPanic stands for the error of a call that ends by a panic.
var ErrPanic = status.Error(codes.Internal, "the call panicked")

// Status returns the status that gRPC sends for err: a context's error has a code of its
// own, and any other error without a status is UNKNOWN.
func Status(err error) *status.Status {
	if s, ok := status.FromError(err); ok {
		return s
	}
	return status.FromContextError(err)
}

// Code returns the code of [Status].
func Code(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	return Status(err).Code()
}

// SplitMethod cuts "/service/method"; a name without a slash is all method.
func SplitMethod(fullMethod string) (service, method string) {
	name := strings.TrimPrefix(fullMethod, "/")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

// Outgoing returns a copy of the outgoing metadata of ctx, to be changed: empty if there is none.
func Outgoing(ctx context.Context) metadata.MD {
	if md, ok := metadata.FromOutgoingContext(ctx); ok {
		return md
	}
	return metadata.MD{}
}

// HasIncoming reports whether the call that ctx is handled with was sent with key, which is in
// lower case, as what transports deliver. A miss costs a fifth of that of
// [metadata.ValueFromIncomingContext], which then compares all keys regardless of case.
func HasIncoming(ctx context.Context, key string) bool {
	switch md := ctx.Value(incomingKey).(type) {
	case nil:
		return false
	case metadata.MD:
		return len(md[key]) > 0
	default:
		return len(metadata.ValueFromIncomingContext(ctx, key)) > 0
	}
}

// incomingKey is the key by which gRPC finds incoming metadata in a context.
var incomingKey = func() any {
	var asked keyContext
	metadata.ValueFromIncomingContext(&asked, "")
	return asked.key
}()

// keyContext stores the key that it is asked for.
type keyContext struct {
	context.Context
	key any
}

// Value has no value.
func (c *keyContext) Value(key any) any {
	c.key = key
	return nil
}

// SplitFinish takes the OnFinish options out of all, for a call of several attempts: gRPC
// would call them at the end of each. Without any, rest is all.
func SplitFinish(all []grpc.CallOption) (rest []grpc.CallOption, finish Finish) {
	if !slices.ContainsFunc(all, isOnFinish) {
		return all, nil
	}
	for _, option := range all {
		if f, ok := option.(grpc.OnFinishCallOption); ok {
			finish = append(finish, f.OnFinish)
		}
	}
	return slices.DeleteFunc(slices.Clone(all), isOnFinish), finish
}

func isOnFinish(option grpc.CallOption) bool {
	_, ok := option.(grpc.OnFinishCallOption)
	return ok
}

// Finish is what is to run at the end of a call.
type Finish []func(error)

// Run calls them, with the error of the call.
func (all Finish) Run(err error) {
	for _, f := range all {
		f(err)
	}
}

const (
	// MaxMethods is how many keys a [Table] takes by default. A contract has tens of
	// methods; a proxy that forwards any call could meet any number.
	MaxMethods = 4096
	// MaxName is the longest name of a method that is worth an entry, in bytes. No contract
	// has a longer one: a peer made it up.
	MaxName = 1024
)

// Table is a bounded map that calls read: a hit takes no lock and allocates nothing, a
// change copies the map. The zero value is empty. It is safe for concurrent use; Max is set
// before.
type Table[K comparable, V any] struct {
	Max int // keys; 0 is MaxMethods

	mu      sync.Mutex // for changes
	current atomic.Pointer[map[K]V]
}

// all is not changed. It is nil at first.
func (t *Table[K, V]) all() map[K]V {
	if m := t.current.Load(); m != nil {
		return *m
	}
	return nil
}

// Get returns the value of key, if there is one.
func (t *Table[K, V]) Get(key K) (value V, ok bool) {
	value, ok = t.all()[key]
	return value, ok
}

// All are the entries of one moment, in no order.
func (t *Table[K, V]) All() iter.Seq2[K, V] { return maps.All(t.all()) }

// Full reports whether the table takes no further keys.
func (t *Table[K, V]) Full() bool { return len(t.all()) >= t.most() }

func (t *Table[K, V]) most() int {
	if t.Max == 0 {
		return MaxMethods
	}
	return t.Max
}

// Of returns the value of key, which create makes if there is none yet: once, while other
// changes wait. It returns false, and no value, if the table is full.
func (t *Table[K, V]) Of(key K, create func() V) (value V, ok bool) {
	if value, ok = t.Get(key); ok {
		return value, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if value, ok = t.Get(key); ok || t.Full() {
		return value, ok
	}
	value = create()
	t.store(key, value)
	return value, true
}

// Add is [Table.Of] with a value that is there already. It returns value itself when the
// table is full.
func (t *Table[K, V]) Add(key K, value V) V {
	if stored, ok := t.Of(key, func() V { return value }); ok {
		return stored
	}
	return value
}

// Set stores value in place of what key had, unless the table is full without key.
func (t *Table[K, V]) Set(key K, value V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.Get(key); ok || !t.Full() {
		t.store(key, value)
	}
}

// Delete makes room for another key.
func (t *Table[K, V]) Delete(key K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.Get(key); !ok {
		return
	}
	next := maps.Clone(t.all())
	delete(next, key)
	t.current.Store(&next)
}

// store wants t.mu.
func (t *Table[K, V]) store(key K, value V) {
	old := t.all()
	next := make(map[K]V, len(old)+1)
	maps.Copy(next, old)
	next[key] = value
	t.current.Store(&next)
}
