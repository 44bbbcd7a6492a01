package cache

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// clientPart is the cache in the calls of one method of a client.
type clientPart struct{ rule *rule }

// call is the interceptor. Unless it bypasses the cache, it runs OnFinish options itself: a
// hit makes no call of gRPC, and a load may make two.
func (p clientPart) call(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	result := Bypass
	err = rpc.ErrPanic
	var x exchange
	defer func() {
		p.rule.report(ctx, &x, result)
		if result != Bypass {
			_, finish := rpc.SplitFinish(opts)
			finish.Run(err)
		}
	}()
	message, ok := reply.(proto.Message)
	x, usable := newExchange(ctx, p.rule, targetOf(cc), req)
	if !ok || !usable || optionsAffectIdentity(opts, p.rule.public) {
		err = invoker(ctx, method, req, reply, cc, opts...)
		setResult(opts, &x, result)
		return err
	}
	e := x.fastHit()
	var derived *Derived
	if e != nil && e.failure == nil && !x.wantsResult {
		derived = derivedOf(opts)
	}
	if derived != nil && derived.find(e, message) {
		result, err = Hit, nil
		return nil
	}
	if e != nil && (e.failure != nil || decoding.Unmarshal(e.body, message) == nil) {
		if derived != nil {
			derived.entry = e
		}
		result, err = Hit, e.failure.Err()
		e.setMetadata(opts, false)
		setResult(opts, &x, result)
		return err
	}
	result = Miss
	result, err = p.find(ctx, x, &clientCall{method: method, req: req, reply: message, cc: cc, invoker: invoker, opts: opts})
	setResult(opts, &x, result)
	return err
}

// find takes x by value, so that only a call that is no fast hit allocates it.
func (p clientPart) find(ctx context.Context, x exchange, call *clientCall) (Result, error) {
	x.origin, x.optionsKey = call, optionsKeyOf(call.opts)
	e, result, err := x.find(ctx)
	if e == nil {
		return result, err
	}
	if e.failure == nil && decoding.Unmarshal(e.body, call.reply) != nil { // the entry is of another message type
		_, err = call.fetch(ctx, "")
		return Miss, err
	}
	e.setMetadata(call.opts, result == Miss)
	return result, e.failure.Err()
}

// clientCall is the origin of a client's call: the server behind the channel.
type clientCall struct {
	method  string
	req     any
	reply   proto.Message
	cc      *grpc.ClientConn
	invoker grpc.UnaryInvoker
	opts    []grpc.CallOption
}

// fetch makes the call. OnFinish is left out, since a second call may follow.
func (c *clientCall) fetch(ctx context.Context, etag string) (got answer, err error) {
	if etag != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, ifNoneMatch, etag)
	}
	opts := append(without[grpc.OnFinishCallOption](c.opts), grpc.Header(&got.header), grpc.Trailer(&got.trailer))
	err = c.invoker(ctx, c.method, c.req, c.reply, c.cc, opts...)
	got.message = c.reply
	return got, err
}

// conflictsWith is false: setMetadata replaces what a failed call has delivered.
func (c *clientCall) conflictsWith(*entry) bool { return false }

// detached leaves out the options that write to the caller's variables, and the caller's
// directives.
func (c *clientCall) detached(ctx context.Context, request proto.Message) (context.Context, origin) {
	own := *c
	own.req, own.reply = request, c.reply.ProtoReflect().New().Interface()
	own.opts = without[grpc.HeaderCallOption](without[grpc.TrailerCallOption](without[grpc.PeerCallOption](c.opts)))
	if md, _ := metadata.FromOutgoingContext(ctx); deleteDirectives(md) {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	return attempt.Again(ctx), &own
}

// deleteDirectives deletes from md what the caller asks of caches, and reports whether
// there was any.
func deleteDirectives(md metadata.MD) bool {
	before := len(md)
	for _, key := range []string{"cache-control", ifNoneMatch, xCache} {
		md.Delete(key)
	}
	return len(md) < before
}

// without copies opts, but for those of one type.
func without[O grpc.CallOption](opts []grpc.CallOption) []grpc.CallOption {
	kept := make([]grpc.CallOption, 0, len(opts)+2)
	for _, opt := range opts {
		if _, out := opt.(O); !out {
			kept = append(kept, opt)
		}
	}
	return kept
}

// optionsKeyOf returns the part of flightKey for call options by which one call fails where
// another does not, such as wait-for-ready: such calls must not share a flight.
func optionsKeyOf(opts []grpc.CallOption) string {
	key := ""
	for _, opt := range opts {
		switch o := opt.(type) {
		case grpc.FailFastCallOption:
			key += fmt.Sprint("fail fast ", o.FailFast)
		case grpc.MaxRecvMsgSizeCallOption:
			key += fmt.Sprint("receive ", o.MaxRecvMsgSize)
		case grpc.MaxSendMsgSizeCallOption:
			key += fmt.Sprint("send ", o.MaxSendMsgSize)
		}
	}
	return key
}

// setMetadata fills the caller's header and trailer from e. If the origin has just been
// asked about e, the x-cache of caches behind this one stays.
func (e *entry) setMetadata(opts []grpc.CallOption, revalidated bool) {
	for _, opt := range opts {
		switch o := opt.(type) {
		case grpc.HeaderCallOption:
			header := metadata.Join(e.header, metadata.MD{"age": {e.ageHeader()}})
			if results := (*o.HeaderAddr)[xCache]; revalidated && len(results) > 0 {
				header.Append(xCache, results...)
			}
			*o.HeaderAddr = header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = e.trailer.Copy()
		}
	}
}

// setResult adds the result to the caller's header, if the call carries x-cache.
func setResult(opts []grpc.CallOption, x *exchange, result Result) {
	if !x.wantsResult {
		return
	}
	for _, opt := range opts {
		if o, ok := opt.(grpc.HeaderCallOption); ok {
			*o.HeaderAddr = metadata.Join(*o.HeaderAddr, metadata.Pairs(xCache, result.String()))
		}
	}
}

// optionsAffectIdentity reports whether an option changes who calls, or which virtual host
// is called: the key does not contain either.
func optionsAffectIdentity(opts []grpc.CallOption, public bool) bool {
	return slices.ContainsFunc(opts, func(opt grpc.CallOption) bool {
		switch opt.(type) {
		case grpc.PerRPCCredsCallOption:
			return !public
		case grpc.AuthorityOverrideCallOption:
			return true
		}
		return false
	})
}

func targetOf(cc *grpc.ClientConn) string {
	if cc == nil {
		return ""
	}
	return cc.CanonicalTarget()
}

// derivedOf is nil for calls without the option.
func derivedOf(opts []grpc.CallOption) *Derived {
	for _, opt := range opts {
		if d, ok := opt.(*Derived); ok {
			return d
		}
	}
	return nil
}

// Derived is a call option that keeps what a caller makes of an answer, such as its JSON, beside
// the cached answer. A later call that is served that answer, fresh, then gets the value
// instead: header and trailer stay as they were, the reply gets the encoded answer as unknown
// fields, which keeps its size right, and [Derived.Value] is not nil.
//
//	derived := cache.Derived{Key: html}
//	err := conn.Invoke(ctx, method, req, reply, &derived)
//	page, ok := derived.Value().(*page)
//	if err == nil && !ok {
//		page = render(reply)
//		derived.Keep(page, len(page.text))
//	}
//
// It is for channels whose interceptors outside of the cache do not change replies, and read no
// more of them than their size.
// Each call needs its own. Without a cache in the channel it has no effect.
type Derived struct {
	grpc.EmptyCallOption
	// Key is compared with that of the value: it identifies what the value depends on beside the
	// answer. It must be comparable, and stays in memory with the value.
	Key any

	entry *entry // that has served the call, nil is none
	value any
}

// derivation is a value beside an entry.
type derivation struct{ key, value any }

// Value is what was kept with the same Key beside the answer that has served the call, nil if
// nothing was.
func (d *Derived) Value() any { return d.value }

// Room is how many bytes Keep takes: two times the message and 512, or 0 if no cached answer has
// served the call, or one that a call without this option has loaded.
func (d *Derived) Room() int {
	if d.entry == nil {
		return 0
	}
	return int(d.entry.room)
}

// Metadata is the header and trailer of the answer of Value, which others use, too, and its age.
func (d *Derived) Metadata() (header, trailer metadata.MD, age time.Duration) {
	return d.entry.header, d.entry.trailer, d.entry.age()
}

// Keep keeps a value of size bytes that was made of the reply, and that nobody changes any more,
// if there is [Derived.Room] for it.
func (d *Derived) Keep(value any, size int) {
	if d.entry != nil && size <= d.Room() {
		d.entry.derived.Store(&derivation{d.Key, value})
	}
}

// find reports whether the value beside e replaces reply.
func (d *Derived) find(e *entry, reply proto.Message) bool {
	known := e.derived.Load()
	if known == nil || known.key != d.Key {
		return false
	}
	d.entry, d.value = e, known.value
	reply.ProtoReflect().SetUnknown(e.body)
	return true
}
