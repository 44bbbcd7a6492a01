package metrics

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
)

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
	methods table[methodKey, *method]

	started, handled, received, sent *prometheus.CounterVec
	inFlight                         *prometheus.GaugeVec
	receivedBytes, sentBytes         *prometheus.HistogramVec
	seconds                          *prometheus.HistogramVec
	handler                          *prometheus.HistogramVec // of a server
}

type methodKey struct {
	kind       kind
	fullMethod string
	served     bool
}

// method is the series of one method, looked up once.
type method struct {
	served         bool // not one that is known only to an unknown-service handler
	started        prometheus.Counter
	inFlight       prometheus.Gauge
	received, sent messages
	seconds        timing
	handler        timing // of the handler alone

	codes  *prometheus.CounterVec
	labels []string
	// handled by code and class
	handled [codes.Unauthenticated + 1][classes]atomic.Pointer[prometheus.Counter]
}

// method finds the series of a method by its name.
func (c *calls) method(k kind, fullMethod string, served bool) *method {
	if m, ok := c.methods.get(methodKey{k, fullMethod, served}); ok {
		return m
	}
	meta := c.names.of(c.side, fullMethod, served)
	key := methodKey{k, meta.FullMethod, served}
	if m, ok := c.methods.get(key); ok {
		return m
	}
	return c.methods.add(key, c.newMethod(k, meta, served))
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
		codes:    c.handled,
		labels:   labels,
	}
	if served {
		made.begin()
	}
	return made
}

// begin makes the counters of all codes, each in the class that it has unless the caller
// cancels: the first failure of a method is one for rate(), too.
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
	m.inFlight.Dec()
}

func (m *method) handledWith(code codes.Code, class class) prometheus.Counter {
	// The peer chooses the number; those that gRPC does not know are one.
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

// timing is a histogram of one method by class, each made when it first comes.
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
// about a quarter of what its encoding does: gRPC tells only a stats.Handler, for several
// allocations a message.
func (m *messages) count(message any) {
	m.total.Inc()
	if message, ok := message.(proto.Message); ok {
		m.bytes.Observe(float64(proto.Size(message)))
	}
}

// codeOf is the code that gRPC puts on the wire for err.
func codeOf(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	return status.FromContextError(err).Code()
}
