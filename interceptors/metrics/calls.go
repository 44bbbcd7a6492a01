package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
	seconds                          *prometheus.HistogramVec
}

type methodKey struct {
	kind       kind
	fullMethod string
}

// method is the series of one method, looked up once.
type method struct {
	started, received, sent prometheus.Counter
	inFlight                prometheus.Gauge
	seconds                 prometheus.Observer

	codes  *prometheus.CounterVec
	labels []string
	// handled by code, made when the code first comes: most never do.
	handled [codes.Unauthenticated + 1]atomic.Pointer[prometheus.Counter]
}

// method finds the series of a method by its name.
func (c *calls) method(k kind, fullMethod string) *method {
	if m, ok := c.methods.get(methodKey{k, fullMethod}); ok {
		return m
	}
	meta := c.names.of(c.side, fullMethod)
	key := methodKey{k, meta.FullMethod}
	if m, ok := c.methods.get(key); ok {
		return m
	}
	return c.methods.add(key, c.newMethod(k, meta))
}

func (c *calls) newMethod(k kind, meta *interceptors.CallMeta) *method {
	labels := []string{string(k), meta.Service, meta.Method}
	for _, l := range c.labels {
		labels = append(labels, l.of(meta))
	}
	return &method{
		started:  c.started.WithLabelValues(labels...),
		received: c.received.WithLabelValues(labels...),
		sent:     c.sent.WithLabelValues(labels...),
		inFlight: c.inFlight.WithLabelValues(labels...),
		seconds:  c.seconds.WithLabelValues(labels...),
		codes:    c.handled,
		labels:   labels,
	}
}

func (m *method) start() time.Time {
	m.started.Inc()
	m.inFlight.Inc()
	return time.Now()
}

func (m *method) end(start time.Time, code codes.Code) {
	m.seconds.Observe(time.Since(start).Seconds())
	m.handledWith(code).Inc()
	m.inFlight.Dec()
}

func (m *method) handledWith(code codes.Code) prometheus.Counter {
	// The peer chooses the number; those that gRPC does not know are one.
	if int(code) >= len(m.handled) {
		code = codes.Unknown
	}
	if c := m.handled[code].Load(); c != nil {
		return *c
	}
	labels := append(m.labels[:3:3], code.String())
	c := m.codes.WithLabelValues(append(labels, m.labels[3:]...)...)
	m.handled[code].Store(&c)
	return c
}

// codeOf is the code that gRPC puts on the wire for err.
func codeOf(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	return status.FromContextError(err).Code()
}
