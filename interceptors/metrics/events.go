package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Attempt counts one attempt of a call, in grpc_client_attempts_total by code and by what
// followed, such as "answered", "again" or "overspent".
func (m *Metrics) Attempt(meta *interceptors.CallMeta, code codes.Code, result string) {
	if code > codes.Unauthenticated {
		code = codes.Unknown
	}
	m.attempts.count(meta, code.String(), result)
}

// CacheResult counts what the cache had for a call, such as "hit" or "miss", in
// meshlite_cache_requests_total.
func (m *Metrics) CacheResult(meta *interceptors.CallMeta, result string) {
	m.cache.count(meta, result, "")
}

// LimitResult counts the verdict of a limit on a call, such as "admitted" or
// "refused", in meshlite_ratelimit_requests_total. The limit is its name.
func (m *Metrics) LimitResult(meta *interceptors.CallMeta, limit, verdict string) {
	m.limits.count(meta, limit, verdict)
}

// ConcurrencyResult counts what became of a call at a concurrency limit, such as
// "admitted" or "refused", in meshlite_concurrency_requests_total.
func (m *Metrics) ConcurrencyResult(meta *interceptors.CallMeta, result string) {
	m.concurrency.count(meta, result, "")
}

// Panic counts a panic that was turned into INTERNAL, in meshlite_panics_total.
func (m *Metrics) Panic(meta *interceptors.CallMeta) {
	m.panics.count(meta, "", "")
}

// events are counters by method and up to two further labels.
type events struct {
	vec   *prometheus.CounterVec
	zero  string // value of the last label that exists from a method's first event on
	extra int
	names *names
	known table[eventKey, prometheus.Counter]
}

type eventKey struct{ fullMethod, first, second string }

// newEvents makes counters. An alert on zero would miss the first event of a series
// that begins with it: rate() takes two samples.
func newEvents(r *registration, seen *names, name, help, zero string, labels ...string) *events {
	all := append([]string{"grpc_service", "grpc_method"}, labels...)
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, all)
	return &events{vec: register(r, name, vec), zero: zero, extra: len(labels), names: seen}
}

// count allocates nothing after the first event of its kind.
func (e *events) count(meta *interceptors.CallMeta, first, second string) {
	counter, ok := e.known.get(eventKey{meta.FullMethod, first, second})
	if !ok {
		counter = e.find(meta, first, second)
	}
	counter.Inc()
}

func (e *events) find(meta *interceptors.CallMeta, first, second string) prometheus.Counter {
	name := e.names.of(meta.Side, meta.FullMethod, true)
	service, method := name.Service, name.Method
	if e.known.full() {
		service, method, first, second = other, other, other, other
	}
	extra := []string{strings.ToValidUTF8(first, ""), strings.ToValidUTF8(second, "")}
	values := append([]string{service, method}, extra[:e.extra]...)
	counter := e.vec.WithLabelValues(values...)
	if last := len(values) - 1; e.zero != "" && first != other && first != codes.OK.String() {
		e.vec.WithLabelValues(append(values[:last:last], e.zero)...)
	}
	return e.known.add(eventKey{name.FullMethod, first, second}, counter)
}
