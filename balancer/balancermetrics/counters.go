package balancermetrics

import (
	"strings"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/internal/series"
	"github.com/meshlite-go/meshlite/resolver"
)

type (
	endpointLabels struct{ service, address string }
	ejectionLabels struct{ service, reason string }

	// pickSource is an endpoint in one table. Another instance at its address is
	// another source.
	pickSource struct{ service, address, directory, queries, id string }
	// ejectionSource is a reason in one table.
	ejectionSource struct{ service, reason, directory, queries string }
)

// reasons are exported from 0 on, so that the first ejection is an increase.
var reasons = []balancer.Reason{balancer.ConsecutiveFailures, balancer.SuccessRate, balancer.Probe}

// picksOf sums what each endpoint has counted.
func picksOf(tables []resolver.Picks, counted func(balancer.EndpointStats) uint64) map[pickSource]uint64 {
	sums := map[pickSource]uint64{}
	for _, t := range tables {
		queries := queriesOf(t)
		for _, e := range t.Endpoints {
			sums[pickSource{series.Text(t.Service), series.Text(e.Address), t.Directory, queries, e.ID}] += counted(e)
		}
	}
	return sums
}

func ejectionsOf(tables []resolver.Picks) map[ejectionSource]uint64 {
	sums := map[ejectionSource]uint64{}
	for _, t := range tables {
		queries := queriesOf(t)
		for _, reason := range reasons {
			sums[ejectionSource{series.Text(t.Service), string(reason), t.Directory, queries}] += t.Ejections[reason]
		}
	}
	return sums
}

// queriesOf distinguishes the tables of one service.
func queriesOf(t resolver.Picks) string {
	var keys []string
	for _, q := range t.Queries {
		keys = append(keys, q.Key())
	}
	return strings.Join(keys, "?")
}
