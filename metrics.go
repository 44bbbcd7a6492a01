package meshlite

import (
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"

	endpoints "github.com/meshlite-go/meshlite/balancer/metrics"
	kept "github.com/meshlite-go/meshlite/interceptors/cache/metrics"
	bounds "github.com/meshlite-go/meshlite/interceptors/concurrency/metrics"
	limits "github.com/meshlite-go/meshlite/interceptors/ratelimit/metrics"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	budgets "github.com/meshlite-go/meshlite/interceptors/retry/metrics"
	discovery "github.com/meshlite-go/meshlite/resolver/metrics"
)

const module = "github.com/meshlite-go/meshlite"

// register adds what is read when it is collected. What calls count is in r.metrics.
// deploy/prometheus/METRICS.md lists all of it.
func (r *Runtime) register() {
	r.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(),
		discovery.New(r.watches, r.agents),
		endpoints.New(r.picks),
		kept.New(r.caches.Stats),
		limits.New(r.limits.Rates),
		bounds.New(r.limits.Own().Stats),
		budgets.New(r.budgets))
}

// budgets are those of all channels.
func (r *Runtime) budgets() []retry.Stats {
	var all []retry.Stats
	for _, one := range r.retries.All() {
		all = append(all, one.Stats()...)
	}
	return all
}

// buildInfo is 1, with what the program was built of.
func buildInfo() prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "meshlite_build_info",
		Help: "1, with the versions that the program was built of.",
		ConstLabels: prometheus.Labels{
			"version": version(), "grpc_version": grpc.Version, "goversion": runtime.Version(),
		},
	})
	info.Set(1)
	return info
}

// version is that of this module in the program.
func version() string {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range append(build.Deps, &build.Main) {
		if m.Path == module && m.Version != "" {
			return m.Version
		}
	}
	return "(devel)"
}
