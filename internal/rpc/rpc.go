// Package rpc has what several concerns do with any gRPC call: read its status and its
// name, notice the end of a stream, keep something for each method.
//
//	series := rpc.Table[string, *series]{Max: 1024}
//	s, ok := series.Get(method)
//	stream, err := rpc.OpenStream(ctx, desc, cc, method, streamer, opts, func(err error) { s.end(rpc.Code(err)) })
package rpc

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
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

// Table is a bounded map that calls read: a hit takes no lock and allocates nothing, a new
// entry copies the map. It is safe for concurrent use; Max is set before.
type Table[K comparable, V any] struct {
	Max int // entries

	mu      sync.Mutex // for adding
	current atomic.Pointer[map[K]V]
}

// Get returns the value of key, if there is one.
func (t *Table[K, V]) Get(key K) (value V, ok bool) {
	if m := t.current.Load(); m != nil {
		value, ok = (*m)[key]
	}
	return value, ok
}

// Full reports whether the table takes no further keys.
func (t *Table[K, V]) Full() bool {
	m := t.current.Load()
	return m != nil && len(*m) >= t.Max
}

// Add stores value unless key has one already or the table is full. It returns the value
// of key from then on, or value itself when the table is full.
func (t *Table[K, V]) Add(key K, value V) V {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := map[K]V{}
	if m := t.current.Load(); m != nil {
		if stored, ok := (*m)[key]; ok {
			return stored
		}
		if len(*m) >= t.Max {
			return value
		}
		next = maps.Clone(*m)
	}
	next[key] = value
	t.current.Store(&next)
	return value
}
