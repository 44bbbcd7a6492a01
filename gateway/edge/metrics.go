package edge

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// maxRoutes bounds the routes that have series of their own.
const maxRoutes = 512

// metrics have bounded labels: methods and routes that are not known are "other".
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	refused  *prometheus.CounterVec
	limits   *prometheus.CounterVec
	panics   prometheus.Counter
	routes   rpc.Table[string, string]
	series   rpc.Table[seriesKey, series]
}

// seriesKey is what the series of a request depend on. Its method and route are labels.
type seriesKey struct {
	method, route string
	status        int
	class         string
}

// series are those of requests that are alike, found once.
type series struct {
	requests prometheus.Counter
	duration prometheus.Observer
}

// maxSeries bounds those that are kept. Others are found again by each request.
const maxSeries = 4 * maxRoutes

func newMetrics(limits []*limit) *metrics {
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "meshlite", Subsystem: "edge", Name: name, Help: help}
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(opts("requests_total", "Requests, by who is responsible for how they ended. Code 0 is a request that was aborted."), []string{"method", "route", "code", "code_class"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "meshlite", Subsystem: "edge", Name: "request_seconds", Help: "Time from the header of a request to the end of its answer.",
			Buckets:                        []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramMaxBucketNumber: 100,
		}, []string{"method", "route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "meshlite", Subsystem: "edge", Name: "in_flight_requests", Help: "Requests that are being answered."}),
		refused:  prometheus.NewCounterVec(opts("refused_total", "Requests that did not reach their handler, by reason."), []string{"reason"}),
		limits:   prometheus.NewCounterVec(opts("limited_total", "Requests that a limit admitted, refused, or in shadow would have refused."), []string{"limit", "result"}),
		panics:   prometheus.NewCounter(opts("panics_total", "Handlers that panicked.")),
		routes:   rpc.Table[string, string]{Max: maxRoutes},
		series:   rpc.Table[seriesKey, series]{Max: maxSeries},
	}
	for _, reason := range reasons { // so that rate() counts the first
		m.refused.WithLabelValues(reason)
	}
	for _, l := range limits {
		for result := ratelimit.Admitted; result <= ratelimit.Shadowed; result++ {
			l.results[result] = m.limits.WithLabelValues(l.Name, result.String())
		}
	}
	return m
}

func (m *metrics) observe(s *served) {
	known := m.seriesOf(seriesKey{methodName(s.request.Method), m.route(s.route), s.status, s.class()})
	known.requests.Inc()
	seconds := s.duration.Seconds()
	if exemplar, ok := known.duration.(prometheus.ExemplarObserver); ok && s.traceID != "" {
		exemplar.ObserveWithExemplar(seconds, prometheus.Labels{"trace_id": s.traceID})
	} else {
		known.duration.Observe(seconds)
	}
	if s.record.refused != "" {
		m.refused.WithLabelValues(s.record.refused).Inc()
	}
}

func (m *metrics) seriesOf(key seriesKey) series {
	find := func() series {
		return series{
			m.requests.WithLabelValues(key.method, key.route, codeName(key.status), key.class),
			m.duration.WithLabelValues(key.method, key.route),
		}
	}
	if known, ok := m.series.Of(key, find); ok {
		return known
	}
	return find()
}

// route is the label of a route.
func (m *metrics) route(route string) string {
	if route == "" || len(route) > maxText {
		return "other"
	}
	if known, ok := m.routes.Get(route); ok {
		return known
	}
	if m.routes.Full() {
		return "other"
	}
	return m.routes.Add(route, route)
}

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"}

// methodName is "other" for a method that a client has made up.
func methodName(method string) string {
	if slices.Contains(methods, method) {
		return method
	}
	return "other"
}

func codeName(status int) string {
	if status == 0 || http.StatusText(status) != "" {
		return strconv.Itoa(status)
	}
	return "other"
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.duration, m.inFlight, m.refused, m.limits, m.panics}
}
