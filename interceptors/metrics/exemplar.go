package metrics

import (
	"context"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// maxTraceID is the longest trace id that is told: with its label, Prometheus takes 128
// letters, and client_golang panics at more.
const maxTraceID = 64

// traceOf tells the trace of a call, and whether it is kept.
type traceOf func(context.Context) (traceID string, sampled bool)

// WithExemplarFromContext gives metrics that count into the same series as m, and hang
// the trace id of calls that are sampled on their latency, as an exemplar. What trace
// costs is added to each call; calls that are not sampled cost nothing more. A nil trace
// is none.
func (m *Metrics) WithExemplarFromContext(trace func(context.Context) (traceID string, sampled bool)) *Metrics {
	with := *m
	with.trace = trace
	return &with
}

// observe tells how long a call took.
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
