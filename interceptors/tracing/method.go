package tracing

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	rpccode "google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

const scope = "github.com/meshlite-go/meshlite/interceptors/tracing"

// other stands for a method that no service has.
const other = "_OTHER"

// maxText bounds a text that the other end writes, in bytes.
const maxText = 256

// method makes the spans of one method on one side.
type method struct {
	side        interceptors.Side
	fullMethod  string
	name        string // of the span
	attemptName string // of that of an attempt
	tracer      trace.Tracer
	propagators propagation.TextMapPropagator
	begin       []trace.SpanStartOption
	last        atomic.Pointer[toward]
}

// toward is how the spans of calls to one target begin.
type toward struct {
	target string
	begin  []trace.SpanStartOption
}

// newMethod is nil where there is nothing to do.
func (t *Tracing) newMethod(meta *interceptors.CallMeta) *method {
	provider, propagators, active := t.providers()
	if !active || t.skip(meta) {
		return nil
	}
	m := &method{
		side: meta.Side, fullMethod: meta.FullMethod,
		name:        spanName(meta.FullMethod),
		tracer:      provider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		propagators: propagators,
	}
	m.attemptName = "attempt " + m.name
	m.begin = m.beginning(semconv.RPCMethod(m.name))
	return m
}

func spanName(fullMethod string) string { return cut(strings.TrimPrefix(fullMethod, "/")) }

// beginning has the attributes of a span that do not depend on the call. It is built once,
// so that a call that is not sampled does not pay for it.
func (m *method) beginning(attributes ...attribute.KeyValue) []trace.SpanStartOption {
	kind := trace.SpanKindClient
	if m.side == interceptors.Server {
		kind = trace.SpanKindServer
	}
	return []trace.SpanStartOption{
		trace.WithSpanKind(kind),
		trace.WithAttributes(append(attributes, semconv.RPCSystemNameGRPC)...),
	}
}

// beginTo is the beginning of a call through cc. A method mostly has one channel.
func (m *method) beginTo(cc *grpc.ClientConn) []trace.SpanStartOption {
	if cc == nil {
		return m.begin
	}
	target := cc.Target()
	if last := m.last.Load(); last != nil && last.target == target {
		return last.begin
	}
	begin := m.beginning(append(serverOf(target), semconv.RPCMethod(m.name))...)
	m.last.Store(&toward{target, begin})
	return begin
}

// listen listens to the events of a call, whose record leads to its trace.
func (m *method) listen(ctx context.Context, span trace.Span) (context.Context, *interceptors.Outcome) {
	ctx, outcome := interceptors.Listen(ctx, m.side, m.fullMethod)
	outcome.Record().Note(func(h *hop.Hop) { h.TraceID = span.SpanContext().TraceID().String() })
	return ctx, outcome
}

// end records how a call or an attempt ended.
func (m *method) end(span trace.Span, err error) {
	s := rpc.Status(err)
	name := nameOf(s.Code())
	span.SetAttributes(semconv.RPCResponseStatusCode(name))
	if m.failed(s.Code()) {
		span.SetAttributes(semconv.ErrorTypeKey.String(name))
		span.SetStatus(otelcodes.Error, cut(s.Message()))
	}
	span.End()
}

// failed reports whether code is an error to OpenTelemetry: all are to a client, and to a
// server those that its caller did not cause (semantic conventions for gRPC).
func (m *method) failed(code codes.Code) bool {
	if m.side == interceptors.Client {
		return code != codes.OK
	}
	switch code {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return true
	default:
		return code > codes.Unauthenticated // none that gRPC defines
	}
}

// nameOf is the name of code in the specification, such as "NOT_FOUND". The peer
// chooses the number; those that gRPC does not define are UNKNOWN.
func nameOf(code codes.Code) string {
	if code > codes.Unauthenticated {
		code = codes.Unknown
	}
	return rpccode.Code(code).String()
}

// setOutcome records what cache and limits did with a call.
func setOutcome(span trace.Span, outcome *interceptors.Outcome) {
	setFacts(span, outcome.Record())
	if cached := outcome.Cache(); cached != nil {
		span.SetAttributes(attribute.String("meshlite.cache.result", cached.Result()))
	}
	if verdict := outcome.Limit(); verdict != nil {
		span.SetAttributes(
			attribute.String("meshlite.ratelimit.limit", cut(verdict.Limit())),
			attribute.String("meshlite.ratelimit.result", verdict.Result()))
	}
}

// setFacts records what else the record of a call says, if somebody wants it explained.
func setFacts(span trace.Span, record *hop.Record) {
	record.Note(func(h *hop.Hop) {
		for name, fact := range h.Facts() {
			span.SetAttributes(attribute.String("meshlite."+cut(name), cut(fact)))
		}
	})
}

// setRoute records where a chain of routes has sent a call, or an attempt.
func setRoute(span trace.Span, record *attempt.Record) {
	if at := record.Route(); at != nil {
		span.SetAttributes(
			attribute.String("meshlite.route.name", cut(at.Name)),
			attribute.String("meshlite.route.arm", cut(at.Arm)),
			attribute.String("meshlite.route.target", cut(at.Destination)))
	}
}

func cut(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.ToValidUTF8(text, "")
}

// serverOf is what a target names: the service of "consul:///catalog?tag=a", the host
// and port of "dns:///host:50051".
func serverOf(target string) []attribute.KeyValue {
	if _, rest, found := strings.Cut(target, "://"); found {
		_, target, _ = strings.Cut(rest, "/")
	}
	target, _, _ = strings.Cut(target, "?")
	target = target[strings.LastIndex(target, "@")+1:] // a span is no place for user information
	if host, text, err := net.SplitHostPort(target); err == nil {
		if port, err := strconv.ParseUint(text, 10, 16); err == nil {
			return []attribute.KeyValue{semconv.ServerAddress(cut(host)), semconv.ServerPort(int(port))}
		}
	}
	return []attribute.KeyValue{semconv.ServerAddress(cut(target))}
}

// peerAt has the attributes of the other end of a connection.
func peerAt(address string) []attribute.KeyValue {
	if at, err := netip.ParseAddrPort(address); err == nil {
		return []attribute.KeyValue{semconv.NetworkPeerAddress(at.Addr().String()), semconv.NetworkPeerPort(int(at.Port()))}
	}
	return []attribute.KeyValue{semconv.NetworkPeerAddress(cut(address))}
}

// peerOf has the attributes of the caller.
func peerOf(ctx context.Context) []attribute.KeyValue {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return peerAt(p.Addr.String())
	}
	return nil
}

// inject writes the trace of ctx into the outgoing metadata. Values under the same keys,
// such as those of metadata that a handler forwards, are replaced.
func inject(ctx context.Context, propagators propagation.TextMapPropagator) context.Context {
	md := rpc.Outgoing(ctx)
	propagators.Inject(ctx, outgoing(md))
	return metadata.NewOutgoingContext(ctx, md)
}

// outgoing is metadata that propagators write.
type outgoing metadata.MD

func (o outgoing) Get(key string) string {
	if values := metadata.MD(o).Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

func (o outgoing) Set(key, value string) { metadata.MD(o).Set(key, value) }

func (o outgoing) Keys() []string { return slices.Collect(maps.Keys(o)) }

// incoming is the metadata of a call that propagators read: a key at a time, since
// all of it would have to be copied.
type incoming struct{ ctx context.Context }

var _ propagation.ValuesGetter = incoming{}

func (i incoming) Get(key string) string {
	if values := i.Values(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

func (i incoming) Values(key string) []string { return metadata.ValueFromIncomingContext(i.ctx, key) }

func (i incoming) Set(string, string) {} // what was received is not written

func (i incoming) Keys() []string {
	md, _ := metadata.FromIncomingContext(i.ctx)
	return slices.Collect(maps.Keys(md))
}
