// Package attempt is the record of one attempt of a call, which travels in its
// context between interceptors and the picker.
//
// An interceptor that wants to know which instance was picked puts a record
// into the context and reads it after the call:
//
//	ctx, record := attempt.Of(ctx, attempt.Unary)
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
	ID       string // the directory's id, or the address where there is none
	Address  string
	Refusals *Refusals // nil where no picker counts them
}

// Record is what one attempt tells and is told. It is safe for concurrent use:
// gRPC may pick in another goroutine than the caller's.
type Record struct {
	number int
	before *Record // the attempt before this one
	first  *Record
	kind   atomic.Uint32
	picked atomic.Pointer[Instance]
	waiter atomic.Pointer[func()] // for the first response
	avoid  atomic.Pointer[Avoid]
	among  atomic.Int64
	latest atomic.Pointer[Record] // of the first record only
	end    atomic.Uint32
}

// New makes the record of a first attempt.
func New() *Record { return new(Record).begin() }

func (r *Record) begin() *Record {
	r.number, r.first = 1, r
	r.latest.Store(r)
	return r
}

// Next makes the record of the attempt that follows r: a retry or a hedge.
func (r *Record) Next() *Record {
	n := &Record{number: r.number + 1, before: r, first: r.first}
	n.kind.Store(r.kind.Load())
	r.first.latest.Store(n)
	return n
}

// Latest is the newest attempt of the call that r belongs to.
func (r *Record) Latest() *Record { return r.first.latest.Load() }

// Number is 1 for the first attempt, 2 for the first retry.
func (r *Record) Number() int { return r.number }

// Pick tells the record who was picked. Pickers call it, and more than once if gRPC has
// to pick again: nobody waits for a response to the pick before any more.
func (r *Record) Pick(i *Instance) {
	r.waiter.Store(nil)
	r.end.Store(0)
	r.picked.Store(i)
}

// Picked is who was picked last, or nil.
func (r *Record) Picked() *Instance { return r.picked.Load() }

// Avoid has pickers pass over instances for one attempt. nil is none.
func (r *Record) Avoid(a *Avoid) { r.avoid.Store(a) }

// Avoids is what pickers pass over, or nil.
func (r *Record) Avoids() *Avoid { return r.avoid.Load() }

// Choose says among how many instances one is picked. Pickers call it before Pick.
func (r *Record) Choose(among int) { r.among.Store(int64(among)) }

// Others reports whether there is an instance that no attempt of the call went to, as
// far as a picker has said.
func (r *Record) Others() bool { return int64(r.number) < r.among.Load() }

// Kind is what kind of call an attempt is of.
type Kind uint32

// The kinds. The latency of a stream is the time to its first response and not to its
// end, so a picker must know.
const (
	Unknown Kind = iota
	Unary
	Stream
)

// Kind is what kind of call this is an attempt of, as far as interceptors have told.
func (r *Record) Kind() Kind { return Kind(r.kind.Load()) }

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

// Await asks for a call of responded at the first response to what was picked last.
// Pickers call it after Pick.
func (r *Record) Await(responded func()) { r.waiter.Store(&responded) }

// End is how an attempt ended, as a picker sees it.
type End uint32

// What may be true of an end. The status of a call is its error.
const (
	Over      End = 1 << iota // it has ended
	Sent                      // a stream was opened
	Received                  // bytes have come from the server
	Answer                    // the server's answer is an error in gRPC's form
	Unhandled                 // the server says that no handler ran
)

// Ended records how the attempt ended. Pickers call it before the call returns.
func (r *Record) Ended(end End) { r.end.Store(uint32(end)) }

// End is how the attempt ended; 0 before, and where no picker has recorded it.
func (r *Record) End() End { return End(r.end.Load()) }

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

// carrying is a context with a record, in one piece.
type carrying struct {
	context.Context
	record Record
}

// Value finds the record.
func (c *carrying) Value(key any) any {
	if key == (contextKey{}) {
		return &c.record
	}
	return c.Context.Value(key)
}

// NewContext carries r to the picker.
func NewContext(ctx context.Context, r *Record) context.Context {
	return context.WithValue(ctx, contextKey{}, r)
}

// Of is the record of the call that an interceptor is about to make with ctx, and tells
// it of which kind the call is: the one that another interceptor has put there, or else
// a new one. A record that was picked with is of another call, whose context ctx
// comes from.
func Of(ctx context.Context, kind Kind) (context.Context, *Record) {
	r := FromContext(ctx)
	if r == nil || r.Picked() != nil {
		c := &carrying{Context: ctx}
		ctx, r = c, c.record.begin()
	}
	r.kind.Store(uint32(kind))
	return ctx, r
}

// FromContext is the record that ctx carries, or nil.
func FromContext(ctx context.Context) *Record {
	r, _ := ctx.Value(contextKey{}).(*Record)
	return r
}
