package gateway

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/gateway/httpcache"
	"github.com/meshlite-go/meshlite/gateway/httpproxy"
)

// Site is a plain HTTP service for [Config.Sites]. The gateway exports the metrics of its parts,
// which whoever made them closes. Each needs a name of its own.
type Site struct {
	*httpproxy.Proxy
	Cache *httpcache.Cache // nil is none; it wraps the transport of the proxy
}

// SiteStats are the figures of a [Site].
type SiteStats struct {
	httpproxy.Stats
	Cache *httpcache.Stats `json:"cache,omitempty"`
}

// Stats returns the figures of the proxy and of the cache.
func (s Site) Stats() SiteStats {
	stats := SiteStats{Stats: s.Proxy.Stats()}
	if s.Cache != nil {
		kept := s.Cache.Stats()
		stats.Cache = &kept
	}
	return stats
}

var bySite, byResult = []string{"site"}, []string{"site", "result"}

var (
	siteRequestsDesc = prometheus.NewDesc("meshlite_http_requests_total",
		"Requests that were forwarded to a plain HTTP service.", bySite, nil)
	siteRetriesDesc = prometheus.NewDesc("meshlite_http_retries_total",
		"Requests that were sent to another instance, since one had failed them (failed) or could not be reached (unsent).", []string{"site", "reason"}, nil)
	siteUnbudgetedDesc = prometheus.NewDesc("meshlite_http_retries_left_out_total",
		"Requests that were not sent again for lack of budget.", bySite, nil)
	siteRejectedDesc = prometheus.NewDesc("meshlite_http_rejected_total",
		"Requests that were rejected as too many were in flight.", bySite, nil)
	siteFailedDesc = prometheus.NewDesc("meshlite_http_failed_total",
		"Requests without an answer of an instance.", bySite, nil)
	siteInFlightDesc = prometheus.NewDesc("meshlite_http_in_flight",
		"Requests that wait for an instance.", bySite, nil)
	siteInstancesDesc = prometheus.NewDesc("meshlite_http_instances",
		"Instances of a plain HTTP service by what the gateway does with them.", []string{"site", "state"}, nil)
	siteEjectionsDesc = prometheus.NewDesc("meshlite_http_ejections_total",
		"Instances that were ejected.", []string{"site", "reason"}, nil)

	keptRequestsDesc = prometheus.NewDesc("meshlite_http_cache_requests_total",
		"Requests to a plain HTTP service by what the cache did.", byResult, nil)
	keptStoredDesc = prometheus.NewDesc("meshlite_http_cache_stored_total",
		"Answers that were stored.", bySite, nil)
	keptEvictedDesc = prometheus.NewDesc("meshlite_http_cache_evicted_total",
		"Answers that were evicted to make room.", bySite, nil)
	keptInvalidationsDesc = prometheus.NewDesc("meshlite_http_cache_invalidations_total",
		"Invalidations.", bySite, nil)
	keptBytesDesc = prometheus.NewDesc("meshlite_http_cache_bytes",
		"Memory in use for answers.", bySite, nil)
	keptEntriesDesc = prometheus.NewDesc("meshlite_http_cache_entries",
		"Answers that are stored.", bySite, nil)
)

var siteDescs = []*prometheus.Desc{
	siteRequestsDesc, siteRetriesDesc, siteUnbudgetedDesc, siteRejectedDesc, siteFailedDesc, siteInFlightDesc, siteInstancesDesc, siteEjectionsDesc,
	keptRequestsDesc, keptStoredDesc, keptEvictedDesc, keptInvalidationsDesc, keptBytesDesc, keptEntriesDesc,
}

// instanceStates and ejectionReasons are all there are: each has a series, so that alerts see 0.
var instanceStates = []balancer.State{balancer.InRotation, balancer.SlowStarted, balancer.OtherZone, balancer.Ejected, balancer.Unconnected}

var ejectionReasons = []balancer.Reason{balancer.ConsecutiveFailures, balancer.SuccessRate, balancer.Probe}

// collect exports the figures of a site.
func (s Site) collect(counter, gauge func(*prometheus.Desc, float64, ...string)) {
	stats := s.Stats()
	name := stats.Name
	counter(siteRequestsDesc, float64(stats.Requests), name)
	counter(siteRetriesDesc, float64(stats.Retries), name, "failed")
	counter(siteRetriesDesc, float64(stats.Moved), name, "unsent")
	counter(siteUnbudgetedDesc, float64(stats.Unbudgeted), name)
	counter(siteRejectedDesc, float64(stats.Rejected), name)
	counter(siteFailedDesc, float64(stats.Failed), name)
	gauge(siteInFlightDesc, float64(stats.InFlight), name)
	states := make([]int, len(instanceStates))
	for _, e := range stats.Endpoints {
		states[max(slices.Index(instanceStates, e.State), 0)]++
	}
	for i, state := range instanceStates {
		gauge(siteInstancesDesc, float64(states[i]), name, string(state))
	}
	for _, reason := range ejectionReasons {
		counter(siteEjectionsDesc, float64(stats.Ejections[reason]), name, string(reason))
	}
	if kept := stats.Cache; kept != nil {
		for result, n := range map[string]uint64{
			"hit": kept.Hits, "stale": kept.Stale, "validated": kept.Validated, "miss": kept.Misses, "pass": kept.Passed, "coalesced": kept.Coalesced,
		} {
			counter(keptRequestsDesc, float64(n), name, result)
		}
		counter(keptStoredDesc, float64(kept.Stored), name)
		counter(keptEvictedDesc, float64(kept.Evicted), name)
		counter(keptInvalidationsDesc, float64(kept.Invalidations), name)
		gauge(keptBytesDesc, float64(kept.Bytes), name)
		gauge(keptEntriesDesc, float64(kept.Entries), name)
	}
}
