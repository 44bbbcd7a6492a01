package metrics

import (
	"context"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// Observe counts an event of another concern: attempts in grpc_client_attempts_total, and
// the results of cache, limits and recovery in meshlite_cache_requests_total,
// meshlite_ratelimit_requests_total, meshlite_concurrency_requests_total and
// meshlite_panics_total. Others are not counted.
func (m *Metrics) Observe(_ context.Context, meta *interceptors.CallMeta, e interceptors.Event) {
	switch e.Stage() {
	case interceptors.Cache:
		m.cache.count(meta, e.Result(), "")
	case interceptors.Concurrency:
		m.concurrency.count(meta, e.Result(), "")
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
