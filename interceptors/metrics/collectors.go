package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/interceptors"
)

// bytesBuckets end where gRPC refuses a message unless told otherwise.
var bytesBuckets = []float64{128, 1 << 10, 8 << 10, 64 << 10, 512 << 10, 4 << 20}

// newCalls makes the collectors of one side.
func newCalls(r *registration, c *config, side interceptors.Side, seen *names) *calls {
	prefix := "grpc_" + side.String() + "_"
	labels := c.labelNames("grpc_type", "grpc_service", "grpc_method")
	counter := func(name, help string, labels []string) *prometheus.CounterVec {
		return register(r, prefix+name, prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels))
	}
	histogram := func(name, help string, buckets []float64, labels []string) *prometheus.HistogramVec {
		return register(r, name, prometheus.NewHistogramVec(histogramOpts(name, help, buckets), labels))
	}
	byClass := c.labelNames("grpc_type", "grpc_service", "grpc_method", "code_class")
	made := &calls{
		side: side, labels: c.labels, names: seen,
		started:  counter("started_total", "Calls begun.", labels),
		handled:  counter("handled_total", "Calls ended, by code.", c.labelNames("grpc_type", "grpc_service", "grpc_method", "grpc_code", "code_class")),
		received: counter("msg_received_total", "Messages received.", labels),
		sent:     counter("msg_sent_total", "Messages sent.", labels),
		inFlight: register(r, prefix+"in_flight", prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + "in_flight", Help: "Calls begun and not ended."}, labels)),
		receivedBytes: histogram(prefix+"msg_received_bytes", "Size of messages received, before compression.", bytesBuckets, labels),
		sentBytes:     histogram(prefix+"msg_sent_bytes", "Size of messages sent, before compression.", bytesBuckets, labels),
		seconds:       histogram(prefix+"handling_seconds", "Time from the begin of a call to its end.", c.buckets, byClass),
	}
	if side == interceptors.Server {
		made.handler = histogram("meshlite_handler_seconds",
			"Time that handlers took, without what the cache answered and limits refused.", c.buckets, byClass)
	}
	return made
}

// histogramOpts make a native histogram for a Prometheus that asks for one, with
// buckets that are a tenth apart and 160 at most, and a classic one for all others.
func histogramOpts(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  160,
		NativeHistogramMinResetDuration: time.Hour,
	}
}
