package scrape

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Side is whose view of calls is meant.
type Side string

// The sides. They are parts of the names of metrics.
const (
	Server Side = "server" // calls that the process serves
	Client Side = "client" // calls that it makes
)

const (
	cacheRequests       = "meshlite_cache_requests_total"
	ratelimitRequests   = "meshlite_ratelimit_requests_total"
	concurrencyRequests = "meshlite_concurrency_requests_total"
	registered          = "meshlite_registered"
	buildInfo           = "meshlite_build_info"
	startTime           = "process_start_time_seconds"
)

// Names are the metrics that are read, for a page that gives no more than it is asked for.
func Names() []string {
	names := []string{cacheRequests, ratelimitRequests, concurrencyRequests, registered, buildInfo, startTime}
	for _, s := range []Side{Server, Client} {
		names = append(names, s.handled(), s.seconds(), s.inFlight())
	}
	return names
}

func (s Side) handled() string  { return "grpc_" + string(s) + "_handled_total" }
func (s Side) seconds() string  { return "grpc_" + string(s) + "_handling_seconds" }
func (s Side) inFlight() string { return "grpc_" + string(s) + "_in_flight" }

// Sample is one reading of a process. It does not change.
type Sample struct {
	At      time.Time
	Service string // that the process is registered as, if it says so of one alone

	start   float64 // of the process, which no counter outlives
	calls   map[Side]map[string]*counts
	cache   map[string]*cacheCounts
	refused map[string]float64
}

// counts are those of a method, package.Service/Method, since the process began.
type counts struct {
	stream          bool
	ended, failures float64
	inFlight        float64
	latency         Histogram
}

type cacheCounts struct{ served, asked float64 }

// Read reads a page in Prometheus's text format, which was had at a time. Calls of gRPC's
// own services, such as health checks, are left out.
func Read(page io.Reader, at time.Time) (*Sample, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(page)
	if err != nil {
		return nil, fmt.Errorf("no page of metrics: %w", err)
	}
	s := &Sample{At: at, calls: map[Side]map[string]*counts{Server: {}, Client: {}}, cache: map[string]*cacheCounts{}, refused: map[string]float64{}}
	known := false
	for _, name := range Names() {
		known = known || name != startTime && families[name] != nil
	}
	if !known {
		return nil, errors.New("it has no metrics of calls: is it a meshlite program?")
	}
	for _, side := range []Side{Server, Client} {
		s.readCalls(families, side)
	}
	s.readCache(families[cacheRequests])
	s.readRefused(families[ratelimitRequests])
	s.readRefused(families[concurrencyRequests])
	for _, m := range families[startTime].GetMetric() {
		s.start = value(m)
	}
	s.Service = serviceOf(families[registered])
	return s, nil
}

func (s *Sample) readCalls(families map[string]*dto.MetricFamily, side Side) {
	s.each(families[side.handled()], side, func(c *counts, l labels, m *dto.Metric) {
		c.ended += value(m)
		if failure(l) {
			c.failures += value(m)
		}
	})
	s.each(families[side.inFlight()], side, func(c *counts, _ labels, m *dto.Metric) { c.inFlight += value(m) })
	s.each(families[side.seconds()], side, func(c *counts, _ labels, m *dto.Metric) {
		c.latency.merge(histogramOf(m.GetHistogram()), 1)
	})
}

// each gives each series of a family, with the method that it counts for.
func (s *Sample) each(family *dto.MetricFamily, side Side, take func(*counts, labels, *dto.Metric)) {
	for _, m := range family.GetMetric() {
		l := labelsOf(m)
		name, ok := l.method()
		if !ok {
			continue
		}
		c := s.calls[side][name]
		if c == nil {
			c = &counts{stream: strings.HasSuffix(l["grpc_type"], "stream"), latency: Histogram{}}
			s.calls[side][name] = c
		}
		take(c, l, m)
	}
}

func (s *Sample) readCache(family *dto.MetricFamily) {
	for _, m := range family.GetMetric() {
		l := labelsOf(m)
		name, ok := l.method()
		if !ok {
			continue
		}
		c := s.cache[name]
		if c == nil {
			c = &cacheCounts{}
			s.cache[name] = c
		}
		c.asked += value(m)
		switch l["result"] {
		case "hit", "coalesced", "stale":
			c.served += value(m)
		}
	}
}

func (s *Sample) readRefused(family *dto.MetricFamily) {
	for _, m := range family.GetMetric() {
		l := labelsOf(m)
		if name, ok := l.method(); ok && l["result"] == "refused" {
			s.refused[name] += value(m)
		}
	}
}

// serviceOf is the one service that is registered, "" for none or several.
func serviceOf(family *dto.MetricFamily) string {
	service := ""
	for _, m := range family.GetMetric() {
		name := labelsOf(m)["service"]
		if service != "" && name != service {
			return ""
		}
		service = name
	}
	return service
}

type labels map[string]string

func labelsOf(m *dto.Metric) labels {
	l := labels{}
	for _, p := range m.GetLabel() {
		l[p.GetName()] = p.GetValue()
	}
	return l
}

// method is the method of a series, unless it is one of gRPC's own.
func (l labels) method() (name string, ok bool) {
	service := l["grpc_service"]
	return service + "/" + l["grpc_method"], service != "" && !interceptors.Infrastructure(service)
}

// failure reports whether calls have ended by a fault of the server. Programs that use
// go-grpc-middleware alone have no code_class.
func failure(l labels) bool {
	if class, ok := l["code_class"]; ok {
		return class == "server"
	}
	switch l["grpc_code"] {
	case "Unknown", "DeadlineExceeded", "Unimplemented", "Internal", "Unavailable", "DataLoss":
		return true
	default:
		return false
	}
}

// most bounds what others write, so that sums stay numbers.
const most = 1e15

// value is that of a counter or gauge, of whichever type it is said to be.
func value(m *dto.Metric) float64 {
	switch {
	case m.GetCounter() != nil:
		return count(m.GetCounter().GetValue())
	case m.GetGauge() != nil:
		return count(m.GetGauge().GetValue())
	default:
		return count(m.GetUntyped().GetValue())
	}
}

// count is 0 for what is none.
func count(v float64) float64 {
	if !(v > 0) || math.IsInf(v, 0) {
		return 0
	}
	return min(v, most)
}
