package metrics

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// UnaryClient measures the calls of one method. Its series appear with the first call.
func (m *Metrics) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	series := sync.OnceValue(func() *method { return m.client.method(unary, meta.FullMethod, true) })
	bounded := meta.Timeout() > 0
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if _, ok := ctx.Deadline(); !ok && !bounded {
			m.unbounded.count(meta, "", "")
		}
		return series().call(ctx, m.trace, method, req, reply, cc, invoker, opts)
	}
}

// UnaryClientInterceptor is for use without a chain.
func (m *Metrics) UnaryClientInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return m.client.method(unary, method, true).call(ctx, m.trace, method, req, reply, cc, invoker, opts)
	}
}

// UnaryServer measures the calls of one method. Its series appear with the first call.
func (m *Metrics) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	series := sync.OnceValue(func() *method { return m.server.method(unary, meta.FullMethod, true) })
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return series().serve(ctx, m.trace, req, handler)
	}
}

// UnaryServerInterceptor is for use without a chain.
func (m *Metrics) UnaryServerInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return m.server.method(unary, info.FullMethod, true).serve(ctx, m.trace, req, handler)
	}
}

// StreamClient measures streams. A stream ends when gRPC says so: after its last
// message, when its context is cancelled, when the channel is closed.
func (m *Metrics) StreamClient(*interceptors.CallMeta) grpc.StreamClientInterceptor {
	return m.StreamClientInterceptor()
}

// StreamClientInterceptor is for use without a chain.
func (m *Metrics) StreamClientInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		series := m.client.method(kindOf(desc.ClientStreams, desc.ServerStreams), method, true)
		return series.open(ctx, m.trace, desc, cc, method, streamer, opts)
	}
}

// StreamServer measures streams from the call of the handler to its return.
func (m *Metrics) StreamServer(*interceptors.CallMeta) grpc.StreamServerInterceptor {
	return m.StreamServerInterceptor()
}

// StreamServerInterceptor is for use without a chain.
func (m *Metrics) StreamServerInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		series := m.server.method(kindOf(info.IsClientStream, info.IsServerStream), info.FullMethod, srv != nil)
		return series.serveStream(m.trace, srv, stream, handler)
	}
}

// call and serve count a panic that passes through them as INTERNAL, which is
// what recovery further out makes of it.

func (m *method) call(ctx context.Context, trace traceOf, name string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts []grpc.CallOption) error {
	start, code := m.start(), codes.Internal
	defer func() { m.end(ctx, trace, start, code) }()
	m.sent.count(req)
	err := invoker(ctx, name, req, reply, cc, opts...)
	if code = rpc.Code(err); code == codes.OK {
		m.received.count(reply)
	}
	return err
}

func (m *method) serve(ctx context.Context, trace traceOf, req any, handler grpc.UnaryHandler) (any, error) {
	start, code := m.start(), codes.Internal
	defer func() { m.end(ctx, trace, start, code) }()
	m.received.count(req)
	reply, err := handler(ctx, req)
	if code = rpc.Code(err); code == codes.OK {
		m.sent.count(reply)
	}
	return reply, err
}

// kind is the grpc_type label.
type kind string

const (
	unary        kind = "unary"
	clientStream kind = "client_stream"
	serverStream kind = "server_stream"
	bidiStream   kind = "bidi_stream"
)

func kindOf(clientStreams, serverStreams bool) kind {
	switch {
	case clientStreams && !serverStreams:
		return clientStream
	case serverStreams && !clientStreams:
		return serverStream
	default:
		return bidiStream
	}
}

// calls are the collectors of one side and the handles of its methods.
type calls struct {
	side    interceptors.Side
	labels  []label
	names   *names
	methods rpc.Table[methodKey, *method]

	started, handled, received, sent *prometheus.CounterVec
	inFlight                         *prometheus.GaugeVec
	receivedBytes, sentBytes         *prometheus.HistogramVec
	seconds                          *prometheus.HistogramVec
	handler                          *prometheus.HistogramVec // of a server
	callers                          *callers                 // of a server
}

type methodKey struct {
	kind       kind
	fullMethod string
	served     bool
}

// method is the series of one method, looked up once.
type method struct {
	served         bool // a registered service has it, not an unknown-service handler
	started        prometheus.Counter
	inFlight       prometheus.Gauge
	received, sent messages
	seconds        timing
	handler        timing   // of the handler alone
	callers        *callers // nil on a client

	codes  *prometheus.CounterVec
	labels []string
	// handled by code and class
	handled [codes.Unauthenticated + 1][classes]atomic.Pointer[prometheus.Counter]
}

// method finds the series of a method by its name.
func (c *calls) method(k kind, fullMethod string, served bool) *method {
	if m, ok := c.methods.Get(methodKey{k, fullMethod, served}); ok {
		return m
	}
	meta := c.names.of(c.side, fullMethod, served)
	key := methodKey{k, meta.FullMethod, served}
	if m, ok := c.methods.Get(key); ok {
		return m
	}
	return c.methods.Add(key, c.newMethod(k, meta, served))
}

func (c *calls) newMethod(k kind, meta *interceptors.CallMeta, served bool) *method {
	labels := []string{string(k), meta.Service, meta.Method}
	for _, l := range c.labels {
		labels = append(labels, l.of(meta))
	}
	made := &method{
		served:   served,
		started:  c.started.WithLabelValues(labels...),
		inFlight: c.inFlight.WithLabelValues(labels...),
		received: messages{c.received.WithLabelValues(labels...), c.receivedBytes.WithLabelValues(labels...)},
		sent:     messages{c.sent.WithLabelValues(labels...), c.sentBytes.WithLabelValues(labels...)},
		seconds:  timing{vec: c.seconds, labels: labels},
		handler:  timing{vec: c.handler, labels: labels},
		callers:  c.callers,
		codes:    c.handled,
		labels:   labels,
	}
	if served {
		made.begin()
	}
	return made
}

// begin makes the counters of all codes, each in its class unless the caller cancels, so
// that rate() counts the first failure of a method.
func (m *method) begin() {
	for code := range codes.Code(len(m.handled)) {
		m.handledWith(code, classOf(context.Background(), code, m.served))
	}
}

func (m *method) start() time.Time {
	m.started.Inc()
	m.inFlight.Inc()
	return time.Now()
}

func (m *method) end(ctx context.Context, trace traceOf, start time.Time, code codes.Code) {
	class := classOf(ctx, code, m.served)
	trace.observe(ctx, m.seconds.of(class), time.Since(start).Seconds())
	m.handledWith(code, class).Inc()
	if m.callers != nil && overTLS(ctx) {
		m.callers.count(ctx, class)
	}
	m.inFlight.Dec()
}

// overTLS reports whether the caller may have a certificate.
func overTLS(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	return ok && p.AuthInfo != nil && p.AuthInfo.AuthType() == "tls"
}

func (m *method) handledWith(code codes.Code, class class) prometheus.Counter {
	// The peer chooses the number; those that gRPC does not define count as one.
	if int(code) >= len(m.handled) {
		code = codes.Unknown
	}
	known := &m.handled[code][class]
	if c := known.Load(); c != nil {
		return *c
	}
	c := m.codes.WithLabelValues(with(m.labels, code.String(), class.String())...)
	known.Store(&c)
	return c
}

// timing is a histogram of one method by class, each made at its first call.
type timing struct {
	vec    *prometheus.HistogramVec
	labels []string
	by     [classes]atomic.Pointer[prometheus.Observer]
}

func (t *timing) of(class class) prometheus.Observer {
	if o := t.by[class].Load(); o != nil {
		return *o
	}
	o := t.vec.WithLabelValues(with(t.labels, class.String())...)
	t.by[class].Store(&o)
	return o
}

// with puts more labels after the three that every series of calls has.
func with(labels []string, more ...string) []string {
	return slices.Concat(labels[:3], more, labels[3:])
}

// messages are those of one direction.
type messages struct {
	total prometheus.Counter
	bytes prometheus.Observer
}

// count takes a message that was received or is sent. Its size is computed, which costs
// about a quarter of what its encoding does: gRPC reports it only to a stats.Handler, for several
// allocations a message.
func (m *messages) count(message any) {
	m.total.Inc()
	if message, ok := message.(proto.Message); ok {
		m.bytes.Observe(float64(proto.Size(message)))
	}
}

// Handlers is the concern that times handlers alone, in meshlite_handler_seconds. A call
// that a cache answers, that is coalesced with another or that a limit refuses is counted
// in grpc_server_handled_total and runs no handler; a refresh of a cache runs one and is
// no call.
type Handlers struct{ m *Metrics }

// Handlers is the innermost concern of a server.
func (m *Metrics) Handlers() *Handlers { return &Handlers{m} }

// Stage is [interceptors.Handler].
func (h *Handlers) Stage() interceptors.Stage { return interceptors.Handler }

// UnaryServer times the handler of one method.
func (h *Handlers) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	series := sync.OnceValue(func() *method { return h.m.server.method(unary, meta.FullMethod, true) })
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		start, code := time.Now(), codes.Internal
		defer func() { h.end(ctx, meta, series(), start, code) }()
		reply, err := handler(ctx, req)
		code = rpc.Code(err)
		return reply, err
	}
}

// StreamServer times the handler of one method.
func (h *Handlers) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		start, code := time.Now(), codes.Internal
		series := h.m.server.method(kindOf(info.IsClientStream, info.IsServerStream), info.FullMethod, srv != nil)
		defer func() { h.end(stream.Context(), meta, series, start, code) }()
		err := handler(srv, stream)
		code = rpc.Code(err)
		return err
	}
}

func (h *Handlers) end(ctx context.Context, meta *interceptors.CallMeta, m *method, start time.Time, code codes.Code) {
	took := time.Since(start)
	interceptors.Note(ctx, meta, func(h *hop.Hop) {
		ms := hop.Milliseconds(took)
		h.Handler = &ms
	})
	h.m.trace.observe(ctx, m.handler.of(classOf(ctx, code, m.served)), took.Seconds())
}

// WithExemplarFromContext returns metrics that count into the series of m and attach trace
// ids of sampled calls to the latency histograms as exemplars. It calls trace once per
// call. A nil trace is none.
func (m *Metrics) WithExemplarFromContext(trace func(context.Context) (traceID string, sampled bool)) *Metrics {
	with := *m
	with.trace = trace
	return &with
}

// maxTraceID is the longest trace id in an exemplar: with its label, Prometheus takes 128
// letters, and client_golang panics at more.
const maxTraceID = 64

// traceOf returns the trace of a call and whether it is sampled.
type traceOf func(context.Context) (traceID string, sampled bool)

// observe records how long a call took.
func (t traceOf) observe(ctx context.Context, to prometheus.Observer, seconds float64) {
	if t != nil {
		if id := t.sampled(ctx); id != "" {
			to.(prometheus.ExemplarObserver).ObserveWithExemplar(seconds, prometheus.Labels{"trace_id": id})
			return
		}
	}
	to.Observe(seconds)
}

// sampled is the trace id of a call that is sampled. Metrics stand outside of recovery,
// so a panic here would end the process.
func (t traceOf) sampled(ctx context.Context) (id string) {
	defer func() {
		if recover() != nil {
			id = ""
		}
	}()
	id, sampled := t(ctx)
	if !sampled || len(id) > maxTraceID || !utf8.ValidString(id) {
		return ""
	}
	return id
}

// class is the code_class label: who is responsible for the end of a call.
type class uint8

const (
	ok       class = iota // answered
	ofClient              // the caller's mistake, or cancelled
	ofServer              // a failure
	classes
)

func (c class) String() string { return [...]string{"ok", "client", "server"}[c] }

// classOf divides codes as the semantic conventions of OpenTelemetry do for servers.
// Two more are the caller's: UNIMPLEMENTED for a method that no service here has, which any
// scanner can call, and any failure of a call that the caller has cancelled.
func classOf(ctx context.Context, code codes.Code, served bool) class {
	switch code {
	case codes.OK:
		return ok
	case codes.Unimplemented:
		if !served {
			return ofClient
		}
	case codes.Unknown, codes.DeadlineExceeded, codes.Internal, codes.Unavailable, codes.DataLoss:
	default:
		if code <= codes.Unauthenticated {
			return ofClient
		}
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ofClient
	}
	return ofServer
}

// Observe counts an event of another concern: attempts in grpc_client_attempts_total, and
// the results of cache, limits, timeouts and recovery in meshlite_cache_requests_total,
// meshlite_ratelimit_requests_total, meshlite_concurrency_requests_total,
// meshlite_timeouts_total and meshlite_panics_total. Others are not counted.
func (m *Metrics) Observe(_ context.Context, meta *interceptors.CallMeta, e interceptors.Event) {
	switch e.Stage() {
	case interceptors.Cache:
		m.cache.count(meta, e.Result(), "")
	case interceptors.Concurrency:
		m.concurrency.count(meta, e.Result(), "")
	case interceptors.Deadline:
		m.timeouts.count(meta, e.Result(), "")
	case interceptors.Recovery:
		m.panics.count(meta, "", "")
	case interceptors.RateLimit:
		if limit, ok := e.(interceptors.LimitEvent); ok {
			m.limits.count(meta, limit.Limit(), e.Result())
		}
	case interceptors.Retry:
		if attempt, ok := e.(interceptors.AttemptEvent); ok {
			// The peer chooses the number; those that gRPC does not define count as one.
			code := attempt.StatusCode()
			if code > codes.Unauthenticated {
				code = codes.Unknown
			}
			m.attempts.count(meta, code.String(), e.Result())
		}
	}
}

// events are counters by method and up to two further labels.
type events struct {
	vec   *prometheus.CounterVec
	zero  string // value of the last label that exists from a method's first event on
	extra int
	names *names
	known rpc.Table[eventKey, prometheus.Counter]
}

type eventKey struct{ fullMethod, first, second string }

// newEvents makes counters. An alert on zero would miss the first event of a series
// that begins with it: rate() takes two samples.
func newEvents(r *registration, seen *names, name, help, zero string, labels ...string) *events {
	all := append([]string{"grpc_service", "grpc_method"}, labels...)
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, all)
	return &events{vec: register(r, name, vec), zero: zero, extra: len(labels), names: seen,
		known: rpc.Table[eventKey, prometheus.Counter]{Max: maxEntries}}
}

// count allocates nothing after the first event of its kind.
func (e *events) count(meta *interceptors.CallMeta, first, second string) {
	counter, ok := e.known.Get(eventKey{meta.FullMethod, first, second})
	if !ok {
		counter = e.find(meta, first, second)
	}
	counter.Inc()
}

func (e *events) find(meta *interceptors.CallMeta, first, second string) prometheus.Counter {
	name := e.names.of(meta.Side, meta.FullMethod, true)
	service, method := name.Service, name.Method
	if e.known.Full() {
		service, method, first, second = other, other, other, other
	}
	extra := []string{strings.ToValidUTF8(first, ""), strings.ToValidUTF8(second, "")}
	values := append([]string{service, method}, extra[:e.extra]...)
	counter := e.vec.WithLabelValues(values...)
	if last := len(values) - 1; e.zero != "" && first != other && first != codes.OK.String() {
		e.vec.WithLabelValues(append(values[:last:last], e.zero)...)
	}
	return e.known.Add(eventKey{name.FullMethod, first, second}, counter)
}
