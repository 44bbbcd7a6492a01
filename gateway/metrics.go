package gateway

import "github.com/prometheus/client_golang/prometheus"

var (
	loadsDesc = prometheus.NewDesc("meshlite_gateway_contract_loads_total",
		"Readings of a service's contract, by result: read, failed (it was not read or is not valid), refused (it conflicts with another one, or has an invalid policy).", []string{"service", "result"}, nil)
	changesDesc = prometheus.NewDesc("meshlite_gateway_contract_changes_total",
		"Contracts that replaced the one before.", []string{"service"}, nil)
	readAtDesc = prometheus.NewDesc("meshlite_gateway_contract_read_timestamp_seconds",
		"When a valid contract was last read, in Unix time; 0 is never.", []string{"service"}, nil)
	servingDesc = prometheus.NewDesc("meshlite_gateway_service_serving",
		"1 if a contract of the service is served, 0 if none was read or it is left out for a conflict.", []string{"service"}, nil)
)

// Describe is for Prometheus.
func (g *Gateway) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range append([]*prometheus.Desc{loadsDesc, changesDesc, readAtDesc, servingDesc}, siteDescs...) {
		ch <- desc
	}
	g.config.Edge.Describe(ch)
}

// Collect is for Prometheus. The metrics of the edge and of each [Site] are among them.
func (g *Gateway) Collect(ch chan<- prometheus.Metric) {
	counter := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value, labels...)
	}
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for _, s := range g.Stats() {
		counter(loadsDesc, float64(s.Loads-s.Failures-s.Refusals), s.Service, "read")
		counter(loadsDesc, float64(s.Failures), s.Service, "failed")
		counter(loadsDesc, float64(s.Refusals), s.Service, "refused")
		counter(changesDesc, float64(s.Changes), s.Service)
		readAt, serving := 0.0, 0.0
		if !s.LoadedAt.IsZero() {
			readAt = float64(s.LoadedAt.UnixMilli()) / 1000
		}
		if s.Serving {
			serving = 1
		}
		gauge(readAtDesc, readAt, s.Service)
		gauge(servingDesc, serving, s.Service)
	}
	for _, s := range g.sites {
		if plain, ok := s.Handler.(Site); ok {
			plain.collect(counter, gauge)
		}
	}
	g.config.Edge.Collect(ch)
}
