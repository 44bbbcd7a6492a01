// Package metrics tells Prometheus how discovery is doing: how old the data is,
// which instances there are, what the guard holds, what was asked of the agents, and
// whether they have the services that this process registers.
//
// The numbers are read when they are collected; nothing is counted twice for it:
//
//	builder := resolver.NewBuilder(directory)
//	registry.MustRegister(metrics.New(builder.Stats, directory.Stats))
//
// A meshlite.Runtime does so by itself.
//
// A program that has started from a snapshot, or without an answer, has no
// meshlite_discovery_data_age_seconds before the first one: an alert needs
// meshlite_discovery_failing as well.
package metrics

import (
	"cmp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// collector is a [prometheus.Collector].
type collector struct {
	watches func() []resolver.Stats
	agents  func() []consul.Stats
}

// New makes a collector of what both functions answer, which must be safe for
// concurrent use. Either may be nil.
func New(watches func() []resolver.Stats, agents func() []consul.Stats) prometheus.Collector {
	if watches == nil {
		watches = func() []resolver.Stats { return nil }
	}
	if agents == nil {
		agents = func() []consul.Stats { return nil }
	}
	return collector{watches, agents}
}

// ofWatch are the labels of a watch: query tells what a service of the same name
// is asked for beside the name, such as "tag=fast".
var ofWatch = []string{"directory", "service", "query"}

// ofService are the labels of a service that this process registers.
var ofService = []string{"agent", "service"}

var (
	age = prometheus.NewDesc("meshlite_discovery_data_age_seconds",
		"Time since the directory last answered, changed or not. A blocking query answers each minute.", ofWatch, nil)
	failing = prometheus.NewDesc("meshlite_discovery_failing",
		"1 while the last query has failed and calls go on with what was known.", ofWatch, nil)
	instances = prometheus.NewDesc("meshlite_discovery_instances",
		"Instances that are known, by what the directory says of them. Of many, a channel calls a part.", append(ofWatch, "state"), nil)
	held = prometheus.NewDesc("meshlite_discovery_held_instances",
		"Instances that have vanished from the directory and are held for the grace time.", ofWatch, nil)
	panicking = prometheus.NewDesc("meshlite_discovery_panicking",
		"1 while too few instances are healthy and those that the health checks keep out are called, too.", ofWatch, nil)
	answers = prometheus.NewDesc("meshlite_discovery_answers_total",
		"Answers of the directory.", ofWatch, nil)
	failures = prometheus.NewDesc("meshlite_discovery_failures_total",
		"Queries that the directory has not answered, or with an error.", ofWatch, nil)

	requests = prometheus.NewDesc("meshlite_consul_requests_total",
		"Requests to the agent.", []string{"agent"}, nil)
	requestFailures = prometheus.NewDesc("meshlite_consul_request_failures_total",
		"Requests that the agent has not answered, or with an error.", []string{"agent"}, nil)
	reregistrations = prometheus.NewDesc("meshlite_consul_reregistrations_total",
		"Registrations that the agent had forgotten or changed, and that were made anew.", []string{"agent"}, nil)
	registrations = prometheus.NewDesc("meshlite_consul_registrations",
		"Registrations that are kept.", []string{"agent"}, nil)

	registered = prometheus.NewDesc("meshlite_registered",
		"1 while the agent has a service of this process, 0 while it has not, or cannot be asked.", ofService, nil)
	registeredAge = prometheus.NewDesc("meshlite_registration_age_seconds",
		"Time since the agent last confirmed the registration, which it is asked for every 5 seconds.", ofService, nil)
	attempts = prometheus.NewDesc("meshlite_registration_attempts_total",
		"Attempts to register, and looks whether the agent still knows the registration.", ofService, nil)
	failedAttempts = prometheus.NewDesc("meshlite_registration_failures_total",
		"Of these, those that the agent or the self-check has failed.", ofService, nil)
)

// Describe implements [prometheus.Collector].
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		age, failing, instances, held, panicking, answers, failures,
		requests, requestFailures, reregistrations, registrations,
		registered, registeredAge, attempts, failedAttempts,
	} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (c collector) Collect(to chan<- prometheus.Metric) {
	for labels, s := range byWatch(c.watches()) {
		collectWatch(to, s, labels[:])
	}
	for agent, s := range byAgent(c.agents()) {
		count(to, requests, s.Requests, agent)
		count(to, requestFailures, s.Failures, agent)
		count(to, reregistrations, s.Reregistrations, agent)
		gauge(to, registrations, float64(s.Registrations), agent)
		for service, s := range byService(s.Services) {
			collectService(to, s, agent, service)
		}
	}
}

func collectService(to chan<- prometheus.Metric, s consul.ServiceStats, labels ...string) {
	gauge(to, registered, float(s.Registered), labels...)
	if !s.ConfirmedAt.IsZero() {
		gauge(to, registeredAge, time.Since(s.ConfirmedAt).Seconds(), labels...)
	}
	count(to, attempts, s.Attempts, labels...)
	count(to, failedAttempts, s.Failures, labels...)
}

func collectWatch(to chan<- prometheus.Metric, s resolver.Stats, labels []string) {
	if !s.AnsweredAt.IsZero() {
		gauge(to, age, time.Since(s.AnsweredAt).Seconds(), labels...)
	}
	gauge(to, failing, float(s.Error != ""), labels...)
	gauge(to, instances, float64(s.Passing), append(labels, catalog.Passing.String())...)
	gauge(to, instances, float64(s.Warning), append(labels, catalog.Warning.String())...)
	gauge(to, instances, float64(s.Critical), append(labels, catalog.Critical.String())...)
	gauge(to, instances, float64(s.Maintenance), append(labels, catalog.Maintenance.String())...)
	gauge(to, panicking, float(s.Panicking), labels...)
	gauge(to, held, float64(s.Held), labels...)
	count(to, answers, s.Answers, labels...)
	count(to, failures, s.Failures, labels...)
}

// byWatch puts together the watches that ask one agent the same: channels with
// another grace time, or another directory, have one of their own.
func byWatch(all []resolver.Stats) map[[3]string]resolver.Stats {
	sums := map[[3]string]resolver.Stats{}
	for _, s := range all {
		sum := sums[labelsOf(s)]
		sum.Answers += s.Answers
		sum.Failures += s.Failures
		sum.Error = cmp.Or(sum.Error, s.Error)
		if s.AnsweredAt.After(sum.AnsweredAt) {
			sum.AnsweredAt = s.AnsweredAt
		}
		sum.Passing, sum.Warning, sum.Held = max(sum.Passing, s.Passing), max(sum.Warning, s.Warning), max(sum.Held, s.Held)
		sum.Critical, sum.Maintenance, sum.Panicking = max(sum.Critical, s.Critical), max(sum.Maintenance, s.Maintenance), sum.Panicking || s.Panicking
		sums[labelsOf(s)] = sum
	}
	return sums
}

func labelsOf(s resolver.Stats) [3]string {
	q := s.Query
	q.Service = ""
	return [3]string{text(s.Directory), text(s.Query.Service), q.Key()}
}

// text is what Prometheus takes for a label: anything else would fail the scrape.
func text(s string) string { return strings.ToValidUTF8(s, "?") }

// byAgent adds up what several directories have asked of one agent.
func byAgent(all []consul.Stats) map[string]consul.Stats {
	sums := map[string]consul.Stats{}
	for _, s := range all {
		sum := sums[text(s.Agent)]
		sum.Requests += s.Requests
		sum.Failures += s.Failures
		sum.Reregistrations += s.Reregistrations
		sum.Registrations += s.Registrations
		sum.Services = append(sum.Services, s.Services...)
		sums[text(s.Agent)] = sum
	}
	return sums
}

// byService puts together what several directories tell of one service, the worst of it
// where it cannot be added up.
func byService(all []consul.ServiceStats) map[string]consul.ServiceStats {
	sums := map[string]consul.ServiceStats{}
	for _, s := range all {
		name := text(s.Service)
		if sum, known := sums[name]; known {
			s.Registered = s.Registered && sum.Registered
			s.Attempts += sum.Attempts
			s.Failures += sum.Failures
			if s.ConfirmedAt.IsZero() || !sum.ConfirmedAt.IsZero() && sum.ConfirmedAt.Before(s.ConfirmedAt) {
				s.ConfirmedAt = sum.ConfirmedAt
			}
		}
		sums[name] = s
	}
	return sums
}

func float(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func gauge(to chan<- prometheus.Metric, d *prometheus.Desc, value float64, labels ...string) {
	to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func count(to chan<- prometheus.Metric, d *prometheus.Desc, value uint64, labels ...string) {
	to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
}
