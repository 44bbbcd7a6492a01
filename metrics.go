package meshlite

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/balancer/balancermetrics"
	"github.com/meshlite-go/meshlite/balancer/routes/routesmetrics"
	"github.com/meshlite-go/meshlite/identity/identitymetrics"
	"github.com/meshlite-go/meshlite/interceptors/authz/authzmetrics"
	"github.com/meshlite-go/meshlite/interceptors/cache/cachemetrics"
	"github.com/meshlite-go/meshlite/interceptors/concurrency/concurrencymetrics"
	"github.com/meshlite-go/meshlite/interceptors/mirror/mirrormetrics"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit/ratelimitmetrics"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	"github.com/meshlite-go/meshlite/interceptors/retry/retrymetrics"
	"github.com/meshlite-go/meshlite/resolver/resolvermetrics"
)

const module = "github.com/meshlite-go/meshlite"

// register adds what is read when it is collected. What calls count is in r.metrics.
// deploy/prometheus/METRICS.md lists all of it.
func (r *Runtime) register() error {
	r.registry.MustRegister(
		buildInfo(),
		&r.off,
		resolvermetrics.New(r.watches, r.agents),
		balancermetrics.New(r.picks),
		routesmetrics.New(r.routes),
		authzmetrics.New(r.authorized),
		identitymetrics.New(r.identities),
		cachemetrics.New(r.caches.Stats),
		ratelimitmetrics.New(r.limits.Rates),
		concurrencymetrics.New(r.limits.Own().Stats),
		retrymetrics.New(r.budgets),
		mirrormetrics.New(r.mirrored))
	if r.beside == nil {
		return nil
	}
	if err := r.beside.Register(r.registry); err != nil {
		return fmt.Errorf("meshlite: RuntimeConfig.Registerer: %w: give each runtime a registerer of its own, such as by prometheus.WrapRegistererWith, or share one runtime", err)
	}
	return nil
}

// processRegistry has what is measured of the process.
var processRegistry = sync.OnceValue(func() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
})

// page is what /metrics shows: the program's own registry if the metrics are there, and
// what is measured of the process unless that is among it.
func (r *Runtime) page() prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		from := prometheus.Gatherer(r.registry)
		if own, ok := r.beside.(prometheus.Gatherer); ok {
			from = own
		}
		families, err := from.Gather()
		process, processErr := processRegistry().Gather()
		has := map[string]bool{}
		for _, f := range families {
			has[f.GetName()] = true
		}
		for _, f := range process {
			if !has[f.GetName()] {
				families = append(families, f)
			}
		}
		return families, errors.Join(err, processErr)
	})
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
