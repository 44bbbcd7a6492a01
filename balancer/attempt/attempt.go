// Package attempt is the record of one attempt of a call, which travels in its
// context between interceptors and the picker.
//
// An interceptor that wants to know which instance was picked puts a record
// into the context and reads it after the call:
//
//	ctx, record := attempt.Of(ctx)
//	err := invoker(ctx, method, req, reply, cc, opts...)
//	log.Print(record.Latest().Picked())
//
// A call without a record costs the picker one context lookup and no more.
package attempt

import (
	"context"
	"sync/atomic"
)

// Instance is who was picked. It is shared by all calls and must not be changed.
type Instance struct {
	ID      string // the directory's id, or the address where there is none
	Address string
}

// Record is what one attempt tells and is told. It is safe for concurrent use:
// gRPC may pick in another goroutine than the caller's.
type Record struct {
	number int
	before *Record // the attempt before this one
	first  *Record
	stream atomic.Bool
	picked atomic.Pointer[Instance]
	waiter atomic.Pointer[func()] // for the first response
	latest atomic.Pointer[Record] // of the first record only
}

// New makes the record of a first attempt.
func New() *Record {
	r := &Record{number: 1}
	r.first = r
	r.latest.Store(r)
	return r
}

// Next makes the record of the attempt that follows r: a retry or a hedge.
func (r *Record) Next() *Record {
	n := &Record{number: r.number + 1, before: r, first: r.first}
	n.stream.Store(r.Stream())
	r.first.latest.Store(n)
	return n
}

// Latest is the newest attempt of the call that r belongs to.
func (r *Record) Latest() *Record { return r.first.latest.Load() }

// Number is 1 for the first attempt, 2 for the first retry.
func (r *Record) Number() int { return r.number }

// Pick tells the record who was picked. Pickers call it.
func (r *Record) Pick(i *Instance) { r.picked.Store(i) }

// Picked is who was picked last, or nil.
func (r *Record) Picked() *Instance { return r.picked.Load() }

// SetStream tells that the attempt is a stream, whose latency is the time to its first
// response and not to its end. Interceptors call it before they open the stream.
func (r *Record) SetStream() { r.stream.Store(true) }

// Stream reports whether the attempt is known to be a stream.
func (r *Record) Stream() bool { return r.stream.Load() }

// Respond tells that the first response has come. Interceptors call it, as often as
// they like.
func (r *Record) Respond() {
	if r.waiter.Load() == nil {
		return
	}
	if responded := r.waiter.Swap(nil); responded != nil {
		(*responded)()
	}
}

// Await asks for a call of responded at the first response. Pickers call it; if it is
// asked for again, because gRPC had to pick again, only the last one is called.
func (r *Record) Await(responded func()) { r.waiter.Store(&responded) }

// Tried reports whether an earlier attempt of the same call went to address.
func (r *Record) Tried(address string) bool {
	for p := r.before; p != nil; p = p.before {
		if i := p.Picked(); i != nil && i.Address == address {
			return true
		}
	}
	return false
}

type contextKey struct{}

// NewContext carries r to the picker.
func NewContext(ctx context.Context, r *Record) context.Context {
	return context.WithValue(ctx, contextKey{}, r)
}

// Of is the record that ctx carries, or a new one that it carries then.
func Of(ctx context.Context) (context.Context, *Record) {
	if r := FromContext(ctx); r != nil {
		return ctx, r
	}
	r := New()
	return NewContext(ctx, r), r
}

// FromContext is the record that ctx carries, or nil.
func FromContext(ctx context.Context) *Record {
	r, _ := ctx.Value(contextKey{}).(*Record)
	return r
}
