// Package resolvermetrics exports discovery to Prometheus: the age of the data, the instances by
// state, those that the guard holds, the requests to the agents, and whether these have the
// services that this process registers.
//
// Collecting reads the statistics of builder and directory; there are no other counters:
//
//	builder := resolver.NewBuilder(directory)
//	registry.MustRegister(resolvermetrics.New(builder.Stats, directory.Stats))
//
// A meshlite.Runtime does so by itself.
//
// A program that has started without an answer and without a snapshot has no
// meshlite_discovery_data_age_seconds: an alert needs meshlite_discovery_failing as well.
package resolvermetrics

import (
	"cmp"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/internal/series"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// collector is a [prometheus.Collector].
type collector struct {
	watches func() []resolver.Stats
	agents  func() []consul.Stats
}

// New returns a collector of the results of both functions, which must be safe for concurrent
// use. Either may be nil.
func New(watches func() []resolver.Stats, agents func() []consul.Stats) prometheus.Collector {
	if watches == nil {
		watches = func() []resolver.Stats { return nil }
	}
	if agents == nil {
		agents = func() []consul.Stats { return nil }
	}
	return collector{watches, agents}
}

// watchLabels are the labels of a watch. query is the query without the service, such as
// "tag=fast".
var watchLabels = []string{"directory", "service", "query"}

// serviceLabels are the labels of a service that this process registers.
var serviceLabels = []string{"agent", "service"}

var (
	age = prometheus.NewDesc("meshlite_discovery_data_age_seconds",
		"Time since the directory last answered, changed or not. A blocking query answers each minute.", watchLabels, nil)
	failing = prometheus.NewDesc("meshlite_discovery_failing",
		"1 while the last query has failed and calls go on with the last list.", watchLabels, nil)
	instances = prometheus.NewDesc("meshlite_discovery_instances",
		"Instances by their state in the directory. A channel calls a subset of many.", append(watchLabels, "state"), nil)
	held = prometheus.NewDesc("meshlite_discovery_held_instances",
		"Instances that have vanished from the directory and are held for the grace time.", watchLabels, nil)
	panicking = prometheus.NewDesc("meshlite_discovery_panicking",
		"1 while too few instances are healthy and those that fail their health checks are called as well.", watchLabels, nil)
	answers = prometheus.NewDesc("meshlite_discovery_answers_total",
		"Answers of the directory.", watchLabels, nil)
	failures = prometheus.NewDesc("meshlite_discovery_failures_total",
		"Queries without an answer, or with an error.", watchLabels, nil)

	requests = prometheus.NewDesc("meshlite_consul_requests_total",
		"Requests to the agent.", []string{"agent"}, nil)
	requestFailures = prometheus.NewDesc("meshlite_consul_request_failures_total",
		"Requests to the agent without an answer, or with an error.", []string{"agent"}, nil)
	reregistrations = prometheus.NewDesc("meshlite_consul_reregistrations_total",
		"Registrations that the agent had lost or changed, and that were made again.", []string{"agent"}, nil)
	registrations = prometheus.NewDesc("meshlite_consul_registrations",
		"Registrations that are kept.", []string{"agent"}, nil)

	registered = prometheus.NewDesc("meshlite_registered",
		"1 while the agent has a service of this process, 0 while it has not or cannot be reached.", serviceLabels, nil)
	registeredAge = prometheus.NewDesc("meshlite_registration_age_seconds",
		"Time since the agent last confirmed the registration, which it should every 5 seconds.", serviceLabels, nil)
	attempts = prometheus.NewDesc("meshlite_registration_attempts_total",
		"Attempts to register, and heartbeats that read the registration from the agent.", serviceLabels, nil)
	failedAttempts = prometheus.NewDesc("meshlite_registration_failures_total",
		"Of these, those that failed at the agent or the self-check.", serviceLabels, nil)
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
		series.Count(to, requests, s.Requests, agent)
		series.Count(to, requestFailures, s.Failures, agent)
		series.Count(to, reregistrations, s.Reregistrations, agent)
		series.Gauge(to, registrations, float64(s.Registrations), agent)
		for service, s := range byService(s.Services) {
			collectService(to, s, agent, service)
		}
	}
}

func collectService(to chan<- prometheus.Metric, s consul.ServiceStats, labels ...string) {
	series.Gauge(to, registered, series.Float(s.Registered), labels...)
	if !s.ConfirmedAt.IsZero() {
		series.Gauge(to, registeredAge, time.Since(s.ConfirmedAt).Seconds(), labels...)
	}
	series.Count(to, attempts, s.Attempts, labels...)
	series.Count(to, failedAttempts, s.Failures, labels...)
}

func collectWatch(to chan<- prometheus.Metric, s resolver.Stats, labels []string) {
	if !s.AnsweredAt.IsZero() {
		series.Gauge(to, age, time.Since(s.AnsweredAt).Seconds(), labels...)
	}
	series.Gauge(to, failing, series.Float(s.Error != ""), labels...)
	series.Gauge(to, instances, float64(s.Passing), append(labels, catalog.Passing.String())...)
	series.Gauge(to, instances, float64(s.Warning), append(labels, catalog.Warning.String())...)
	series.Gauge(to, instances, float64(s.Critical), append(labels, catalog.Critical.String())...)
	series.Gauge(to, instances, float64(s.Maintenance), append(labels, catalog.Maintenance.String())...)
	series.Gauge(to, panicking, series.Float(s.Panicking), labels...)
	series.Gauge(to, held, float64(s.Held), labels...)
	series.Count(to, answers, s.Answers, labels...)
	series.Count(to, failures, s.Failures, labels...)
}

// byWatch merges the watches of one query at one agent: channels with another grace time, or
// another directory, have a watch of their own.
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
	return [3]string{series.Text(s.Directory), series.Text(s.Query.Service), q.Key()}
}

// byAgent sums the requests of several directories to one agent.
func byAgent(all []consul.Stats) map[string]consul.Stats {
	sums := map[string]consul.Stats{}
	for _, s := range all {
		sum := sums[series.Text(s.Agent)]
		sum.Requests += s.Requests
		sum.Failures += s.Failures
		sum.Reregistrations += s.Reregistrations
		sum.Registrations += s.Registrations
		sum.Services = append(sum.Services, s.Services...)
		sums[series.Text(s.Agent)] = sum
	}
	return sums
}

// byService merges the statistics of several directories on one service: sums, or the worst
// value.
func byService(all []consul.ServiceStats) map[string]consul.ServiceStats {
	sums := map[string]consul.ServiceStats{}
	for _, s := range all {
		name := series.Text(s.Service)
		if sum, ok := sums[name]; ok {
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
