// Package attempt is the record of one attempt of a call. It travels in the context between
// interceptors and the picker.
//
// An interceptor that needs the picked instance adds a record to the context and reads it after
// the call:
//
//	ctx, record := attempt.FromOrNew(ctx, attempt.Unary)
//	err := invoker(ctx, method, req, reply, cc, opts...)
//	log.Print(record.Latest().Picked())
//
// A call without a record costs the picker one context lookup.
package attempt

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// Instance identifies an instance that was picked. All calls share it: do not change it.
type Instance struct {
	ID       string // in the directory, or the address
	Address  string
	Zone     string    // "" is unknown
	Refusals *Refusals // nil if the picker does not count them
}

// Record holds one attempt's state, shared by interceptors and picker. It is safe for
// concurrent use: gRPC may pick in another goroutine than the caller's.
type Record struct {
	number     int
	previous   *Record
	first      *Record
	latest     atomic.Pointer[Record] // of the first record only
	kind       atomic.Uint32
	avoid      atomic.Pointer[Avoid]
	picked     atomic.Pointer[Instance]
	onResponse atomic.Pointer[func()]
	trailer    atomic.Pointer[metadata.MD]
	route      atomic.Pointer[Route]
	// pick holds the number of candidates and the end, which a pick resets: one atomic store
	// instead of two.
	pick atomic.Uint64
}

// New makes the record of a first attempt.
func New() *Record { return new(Record).init() }

func (r *Record) init() *Record {
	r.number, r.first = 1, r
	r.latest.Store(r)
	return r
}

// Next makes the record of the attempt after r: a retry or a hedge.
func (r *Record) Next() *Record {
	n := &Record{number: r.number + 1, previous: r, first: r.first}
	n.kind.Store(r.kind.Load())
	if route := r.route.Load(); route != nil {
		n.route.Store(route)
	}
	r.first.latest.Store(n)
	return n
}

// Latest is the newest attempt of the call that r belongs to.
func (r *Record) Latest() *Record { return r.first.latest.Load() }

// First is the first attempt of the call that r belongs to.
func (r *Record) First() *Record { return r.first }

// Number is 1 for the first attempt, 2 for the first retry.
func (r *Record) Number() int { return r.number }

// Tried reports whether an earlier attempt of the same call went to address.
func (r *Record) Tried(address string) bool {
	for p := r.previous; p != nil; p = p.previous {
		if i := p.Picked(); i != nil && i.Address == address {
			return true
		}
	}
	return false
}

// SentTo is how many earlier attempts of the same call were sent to a target of its chain.
func (r *Record) SentTo(target string) (n int) {
	for p := r.previous; p != nil; p = p.previous {
		if route := p.Route(); route != nil && route.Target == target {
			n++
		}
	}
	return n
}

// Kind is the kind of a call. Pickers need it, since the latency of a stream is the time to its
// first response and not to its end.
type Kind uint32

// The kinds.
const (
	Unknown Kind = iota
	Unary
	Stream
)

// Kind is the kind of the call, as interceptors set it.
func (r *Record) Kind() Kind { return Kind(r.kind.Load()) }

// SetAvoid excludes instances from the attempt. nil is none.
func (r *Record) SetAvoid(a *Avoid) { r.avoid.Store(a) }

// Avoid is what pickers exclude, or nil.
func (r *Record) Avoid() *Avoid { return r.avoid.Load() }

// Route is where a call goes when a chain of routes decides it. All calls that go there share
// it: do not change it.
type Route struct {
	Name   string // of the route
	Arm    string // of its split
	Target string // the ID of the target in the chain
	// Destination identifies what answers, in all chains and processes.
	Destination string
	Retry       *Retry        // nil is the method's policy alone
	Timeout     time.Duration // of the call with its attempts; 0 is the policy's alone
}

// Retry is what a route adds to the retry rule of a method. Only calls that may run twice are
// retried.
type Retry struct {
	Attempts         int          // at most, with the first; 0 is the policy's
	Codes            []codes.Code // beside the policy's
	OnConnectFailure bool         // also when nothing was sent
}

// SetRoute records where the call goes, for this attempt and those after it. Interceptors call
// it before the first attempt, and pickers when they send one elsewhere.
func (r *Record) SetRoute(route *Route) { r.route.Store(route) }

// Route is where the call goes; nil is where the channel goes.
func (r *Record) Route() *Route { return r.route.Load() }

// endBits is the size of an [End] in Record.pick.
const endBits = 8

// SetCandidates records among how many instances the picker picks, and that the attempt has not
// ended. Pickers call it before SetPicked.
func (r *Record) SetCandidates(n int) { r.pick.Store(uint64(n) << endBits) }

// Candidates is the number that the picker recorded, 0 without one.
func (r *Record) Candidates() int { return int(r.pick.Load() >> endBits) }

// HasUntried reports whether there is an instance without an attempt of the call, by the
// candidates that the picker recorded.
func (r *Record) HasUntried() bool { return uint64(r.number) < r.pick.Load()>>endBits }

// SetPicked records the picked instance. Pickers call it, more than once if gRPC picks again. It
// drops the function of OnResponse, which belongs to the pick before.
func (r *Record) SetPicked(i *Instance) {
	if r.onResponse.Load() != nil {
		r.onResponse.Store(nil)
	}
	r.picked.Store(i)
}

// Picked is the last picked instance, or nil.
func (r *Record) Picked() *Instance { return r.picked.Load() }

// OnResponse has f called once, at the first response. Pickers call it after SetPicked.
func (r *Record) OnResponse(f func()) { r.onResponse.Store(&f) }

// Respond records a response. Interceptors call it for the first one or for all.
func (r *Record) Respond() {
	if r.onResponse.Load() == nil {
		return
	}
	if f := r.onResponse.Swap(nil); f != nil {
		(*f)()
	}
}

// End is how an attempt ended on the wire. The status of a call is its error.
type End uint32

// The flags of an end.
const (
	Over      End = 1 << iota // it has ended
	Sent                      // a stream was opened
	Received                  // bytes were received from the server
	Answer                    // the error is the server's answer in gRPC's form
	Unhandled                 // the server states that no handler ran
)

// SetEnd records how the attempt ended. Pickers call it before the call returns.
func (r *Record) SetEnd(end End) {
	r.pick.Store(r.pick.Load()>>endBits<<endBits | uint64(end))
}

// End is how the attempt ended; 0 before, and if the picker does not record it.
func (r *Record) End() End { return End(r.pick.Load() & (1<<endBits - 1)) }

// SetTrailer records the trailer of an attempt that failed. Pickers call it before SetEnd.
func (r *Record) SetTrailer(md metadata.MD) { r.trailer.Store(&md) }

// Trailer is that of an attempt that failed, nil if the picker did not record it. Do not
// change it.
func (r *Record) Trailer() metadata.MD {
	if md := r.trailer.Load(); md != nil {
		return *md
	}
	return nil
}

type contextKey struct{}

// Context is a context with its record, in one allocation. Embed it to carry more. It is not
// reused: what keeps it after the call keeps this call's.
type Context struct {
	context.Context
	record Record // without a number it is that of Context
}

// Init derives c from ctx and returns the record of [FromOrNew].
func (c *Context) Init(ctx context.Context, kind Kind) *Record {
	c.Context = ctx
	r := FromContext(ctx)
	if r == nil || r.Picked() != nil {
		r = c.record.init()
	}
	r.kind.Store(uint32(kind))
	return r
}

// Value finds the record.
func (c *Context) Value(key any) any {
	if key == (contextKey{}) && c.record.number > 0 {
		return &c.record
	}
	return c.Context.Value(key)
}

// NewContext carries r to the picker.
func NewContext(ctx context.Context, r *Record) context.Context {
	return context.WithValue(ctx, contextKey{}, r)
}

// FromContext returns the record in ctx, or nil.
func FromContext(ctx context.Context) *Record {
	r, _ := ctx.Value(contextKey{}).(*Record)
	return r
}

// FromOrNew returns the record of the call that an interceptor is about to make with ctx, with
// kind set: the one of another interceptor, or a new one. A record with a picked instance is
// that of another call, from which ctx is derived.
func FromOrNew(ctx context.Context, kind Kind) (context.Context, *Record) {
	if r := FromContext(ctx); r != nil && r.Picked() == nil {
		r.kind.Store(uint32(kind))
		return ctx, r
	}
	c := &Context{}
	return c, c.Init(ctx, kind)
}

// Again derives from ctx the context of a further call that goes where that of ctx goes, with a
// record of its own.
func Again(ctx context.Context) context.Context {
	record := New()
	if r := FromContext(ctx); r != nil {
		record.SetRoute(r.Latest().Route())
	}
	return NewContext(ctx, record)
}

// Avoid excludes instances that refused such calls and returned when to retry.
type Avoid struct {
	// For is for how long an instance is excluded, 0 for one that may be picked. Pickers may
	// call it for any instance, in any order.
	For func(*Instance) time.Duration
	// Err is the error of an attempt for which all instances are excluded, the first of them
	// for shortest. Pickers fail the pick with it.
	Err func(shortest time.Duration) error
}

// Refusals counts the calls that an instance rejected with a time to retry. It is safe for
// concurrent use.
type Refusals struct{ count, generation atomic.Uint64 }

// CountRefusal counts one. Interceptors that obey refusals call it.
func (i *Instance) CountRefusal() {
	if i.Refusals != nil {
		i.Refusals.count.Add(1)
	}
}

// Count is how many were counted.
func (r *Refusals) Count() uint64 { return r.count.Load() }

// Reset ends the validity of all refusals so far: the instance has left its service, or may
// have been restarted.
func (r *Refusals) Reset() { r.generation.Add(1) }

// Generation counts resets: a refusal is valid in the generation in which it was received. It
// is 0 if nobody counts.
func (i *Instance) Generation() uint64 {
	if i.Refusals == nil {
		return 0
	}
	return i.Refusals.generation.Load()
}
