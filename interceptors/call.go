package interceptors

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/guard"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// Side is the end of the wire where a chain runs.
type Side uint8

// The two ends of the wire.
const (
	Client Side = iota + 1
	Server
)

// String is "client" or "server".
func (s Side) String() string {
	if s == Client {
		return "client"
	}
	return "server"
}

// On reports whether a rule is applied on s: its side is rule, or preset if it names none.
func (s Side) On(rule policyv1.Side, preset Side) bool {
	switch rule {
	case policyv1.Side_SIDE_CLIENT:
		return s == Client
	case policyv1.Side_SIDE_SERVER:
		return s == Server
	case policyv1.Side_SIDE_BOTH:
		return true
	default:
		return s == preset
	}
}

// CallMeta describes the calls of one method: its name, contract and policy. One value
// serves all calls of the method and must not be changed.
type CallMeta struct {
	Side       Side
	FullMethod string // "/sweetshop.catalog.v1.CatalogService/GetSweet"
	Service    string // "sweetshop.catalog.v1.CatalogService"
	Method     string // "GetSweet"

	// Descriptor is the method in the contract, nil when this program is neither linked
	// with the generated code of it nor has read it, see [Contracts].
	Descriptor protoreflect.MethodDescriptor
	// Policy is what contract, Go options and operator agree on. Never nil.
	Policy *policyv1.MethodPolicy
	// Intentions are those of the policy, on a server: who may call. Nil is that there are none.
	// Their destination is the service that authorizes.
	Intentions *intention.Set

	policies *Policies // nil if none made it
	above    *layers
}

// Cacheable reports whether a response may be served again: the contract marks the
// method idempotency_level = NO_SIDE_EFFECTS, or the cache rule allows others.
func (m *CallMeta) Cacheable() bool { return m.Safe() || m.Policy.GetCache().GetAllowSideEffects() }

// Timeout is the one that the policy sets for calls on this side, or 0. Policies have checked
// the text.
func (m *CallMeta) Timeout() time.Duration {
	if !m.Side.On(m.Policy.GetTimeoutSide(), Client) {
		return 0
	}
	timeout, _ := ParseDuration(m.Policy.GetTimeout())
	return timeout
}

// cached reports whether responses are cached.
func (m *CallMeta) cached() bool {
	ttl, err := ParseDuration(m.Policy.GetCache().GetTtl())
	return err == nil && ttl > 0 && m.Cacheable()
}

// Safe reports whether the contract marks the method idempotency_level = NO_SIDE_EFFECTS.
func (m *CallMeta) Safe() bool {
	return m.idempotency() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
}

// Retryable reports whether a call may run twice: the contract marks the method
// IDEMPOTENT or NO_SIDE_EFFECTS, or the retry rule allows others.
func (m *CallMeta) Retryable() bool {
	return m.idempotency() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN || m.Policy.GetRetry().GetAllowSideEffects()
}

// Mirrorable reports whether unary calls may be copied to another place: the contract marks the
// method IDEMPOTENT or NO_SIDE_EFFECTS, or the mirror rule allows others. Streams may not.
func (m *CallMeta) Mirrorable() bool {
	return !m.Streams() &&
		(m.idempotency() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN || m.Policy.GetMirror().GetAllowSideEffects())
}

// Streams reports whether the contract says that the client or the server streams.
func (m *CallMeta) Streams() bool {
	return m.Descriptor != nil && (m.Descriptor.IsStreamingClient() || m.Descriptor.IsStreamingServer())
}

func (m *CallMeta) idempotency() descriptorpb.MethodOptions_IdempotencyLevel {
	if m.Descriptor == nil {
		return descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN
	}
	options, _ := m.Descriptor.Options().(*descriptorpb.MethodOptions)
	return options.GetIdempotencyLevel()
}

// Infrastructure reports whether gRPC itself defines service (health, reflection, channelz and
// ORCA), or the transport of this module, and nothing else. Their calls are exempt from
// defaults, limits and traces. A user's own package may be named grpc too, so no prefix decides it.
func Infrastructure(service string) bool {
	switch service {
	case "grpc.health.v1.Health",
		"grpc.reflection.v1.ServerReflection",
		"grpc.reflection.v1alpha.ServerReflection",
		"grpc.channelz.v1.Channelz",
		"xds.service.orca.v3.OpenRcaService",
		"meshlite.call.v1.CallService":
		return true
	}
	return false
}

// MetadataValue returns the value of a metadata key that a policy names, incoming on the
// server and outgoing on the client, by the rule of [caller.Value].
func MetadataValue(ctx context.Context, side Side, key string) (string, error) {
	return caller.Value(MetadataValues(ctx, side, key), key)
}

// MetadataValues returns all values of a metadata key in order, for keys that are lists,
// such as those of vary.
func MetadataValues(ctx context.Context, side Side, key string) []string {
	if side == Server {
		return metadata.ValueFromIncomingContext(ctx, key)
	}
	return metadata.ValueFromOutgoingContext(ctx, key)
}

// Event is what a concern did with a call. Concerns publish small values or pointers
// that exist already, such as cache.Result, so that an event allocates nothing.
type Event interface {
	// Stage is that of the concern which publishes it.
	Stage() Stage
	// Result is one word, such as "hit": the value of a label and of a log attribute.
	// A concern has a bounded number of them.
	Result() string
}

// CacheEvent is the result of a cache.
type CacheEvent interface {
	Event
	// Served reports whether the cache answered the call in place of a server or handler.
	Served() bool
}

// LimitEvent is the verdict of one limit on a call. A call may meet several.
type LimitEvent interface {
	Event
	// Limit is the name of a rate limit, or "concurrency".
	Limit() string
	// Decides reports whether this verdict is the one to report for the call: that of the
	// limit that refused, else of one in shadow mode that would have refused, else of the
	// first rate limit.
	Decides() bool
}

// AttemptEvent is the end of one attempt of a call; its result is what follows.
type AttemptEvent interface {
	Event
	StatusCode() codes.Code
}

// Observer receives the events of concerns, in the goroutine of the call. It must be safe
// for concurrent use and fast, and must not keep e: an event may be reused after Observe
// returns. A panic in it is logged, and the call goes on.
type Observer interface {
	Observe(ctx context.Context, meta *CallMeta, e Event)
}

// ObserverFunc is an [Observer] made of a function. A nil one ignores all events.
type ObserverFunc func(ctx context.Context, meta *CallMeta, e Event)

// Observe calls f.
func (f ObserverFunc) Observe(ctx context.Context, meta *CallMeta, e Event) {
	if f != nil {
		f(ctx, meta, e)
	}
}

// Publisher publishes the events of one concern. It is safe for concurrent use.
type Publisher struct {
	observer Observer
	panics   guard.OncePerMinute
}

// NewPublisher returns a publisher with the concern's own observer, which may be nil.
func NewPublisher(observer Observer) *Publisher { return &Publisher{observer: observer} }

// Publish passes e to the [Outcome] of the call, if a concern further out listens, and then
// to the observer. A panic of the observer is logged once a minute, and the call goes on. A
// nil publisher has no observer.
func (p *Publisher) Publish(ctx context.Context, meta *CallMeta, e Event) {
	OutcomeOf(ctx, meta).record(e)
	if p == nil || p.observer == nil {
		return
	}
	defer p.logPanic(ctx, meta)
	p.observer.Observe(ctx, meta, e)
}

func (p *Publisher) logPanic(ctx context.Context, meta *CallMeta) {
	if value := recover(); value != nil && p.panics.Allow() {
		slog.ErrorContext(ctx, "an observer has panicked", "method", meta.FullMethod, "panic", value, "stack", string(debug.Stack()))
	}
}

// Outcome holds the events of one call that concerns further in publish for those
// further out: the cache's result, the limit that decided. It is safe for concurrent use.
//
// A concern that needs it listens, and reads it at the end of the call:
//
//	ctx, outcome := interceptors.Listen(ctx, meta.Side, meta.FullMethod)
//	err := invoker(ctx, method, req, reply, cc, opts...)
//	if result := outcome.Cache(); result != nil {
//		log.Print(result.Result())
//	}
//
// A call without a listener costs the concern that publishes one lookup in the context; its
// outcome is nil, and has no events.
type Outcome struct {
	side     Side
	method   string
	explains *hop.Record // nil unless the call is explained

	mu    sync.Mutex
	cache CacheEvent
	limit LimitEvent
}

type outcomeKey struct{}

// listening is a context with an outcome, in one piece.
type listening struct {
	context.Context
	outcome Outcome
}

// Value finds the outcome.
func (l *listening) Value(key any) any {
	if key == (outcomeKey{}) {
		return &l.outcome
	}
	return l.Context.Value(key)
}

// Listen returns the outcome of the call of fullMethod that is about to be made or
// handled with ctx: the one that a concern further out listens to, or a new one.
func Listen(ctx context.Context, side Side, fullMethod string) (context.Context, *Outcome) {
	if o := outcomeOf(ctx, side, fullMethod); o != nil {
		return ctx, o
	}
	l := &listening{Context: ctx}
	l.outcome.side, l.outcome.method = side, fullMethod
	return l, &l.outcome
}

// OutcomeOf returns the outcome of a call of meta's method, nil if no concern listens. A
// call that a handler makes does not share the outcome of the call that it handles.
func OutcomeOf(ctx context.Context, meta *CallMeta) *Outcome {
	return outcomeOf(ctx, meta.Side, meta.FullMethod)
}

func outcomeOf(ctx context.Context, side Side, method string) *Outcome {
	o, _ := ctx.Value(outcomeKey{}).(*Outcome)
	if o == nil || o.side != side || o.method != method {
		return nil
	}
	return o
}

// Explain returns ctx for the call of fullMethod that is about to be made or handled, with an
// outcome of its own, whose concerns note what they do in record.
func Explain(ctx context.Context, side Side, fullMethod string, record *hop.Record) context.Context {
	explains.Store(true)
	l := &listening{Context: ctx}
	l.outcome.side, l.outcome.method, l.outcome.explains = side, fullMethod, record
	return l
}

// explains is whether this process has explained a call. Until then no call looks for a record in
// its context.
var explains atomic.Bool

// RecordOf returns the record of a call of meta's method, nil if nobody wants the call explained.
// Concerns note there what they do: see [Note].
func RecordOf(ctx context.Context, meta *CallMeta) *hop.Record {
	if !explains.Load() {
		return nil
	}
	return OutcomeOf(ctx, meta).Record()
}

// Note has f change the record of a call of meta's method. It does nothing if nobody wants the
// call explained, and then allocates nothing.
func Note(ctx context.Context, meta *CallMeta, f func(*hop.Hop)) {
	if record := RecordOf(ctx, meta); record != nil {
		record.Note(f)
	}
}

// Record is that of the call, nil if nobody wants it explained.
func (o *Outcome) Record() *hop.Record {
	if o == nil {
		return nil
	}
	return o.explains
}

// Explaining returns the record of the call, whichever it is, that ctx belongs to: the one whose
// handler makes a call with ctx. It is nil if nobody wants that explained.
func Explaining(ctx context.Context) *hop.Record {
	if !explains.Load() {
		return nil
	}
	o, _ := ctx.Value(outcomeKey{}).(*Outcome)
	return o.Record()
}

// WithoutOutcome returns ctx for work that a call starts and that is not part of it, such
// as refreshing a cached answer in the background.
func WithoutOutcome(ctx context.Context) context.Context {
	if ctx.Value(outcomeKey{}) == nil {
		return ctx
	}
	return context.WithValue(ctx, outcomeKey{}, (*Outcome)(nil))
}

// record keeps the latest event of the cache and the latest verdict that decides.
func (o *Outcome) record(e Event) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch e := e.(type) {
	case CacheEvent:
		o.cache = e
	case LimitEvent:
		if e.Decides() {
			o.limit = e
		}
	}
}

// Cache is the cache's result, nil if the call did not reach a cache.
func (o *Outcome) Cache() CacheEvent {
	if o == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cache
}

// Limit is the verdict that decided, in the latest attempt; see [LimitEvent.Decides]. It is
// nil if the call met no rate limit and no concurrency limit refused it.
func (o *Outcome) Limit() LimitEvent {
	if o == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.limit
}
