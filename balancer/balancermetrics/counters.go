package balancermetrics

import (
	"strings"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/resolver"
)

// maxSeen caps what is remembered of sources that are gone.
const maxSeen = 10_000

// counters make series that only grow of sources that come and go: what is added to a
// series is what has come since the last look.
type counters[Source, Series comparable] struct {
	seen   map[Source]uint64 // what it had counted when it was last there
	totals map[Series]uint64 // of the last look
}

// grow takes what the sources have counted until now, and to which series each belongs
// now. A source that has counted less than before has begun anew, and what it has
// counted since is lost: better that than to count all of it twice.
func (c *counters[Source, Series]) grow(sources map[Source]uint64, seriesOf func(Source) Series) map[Series]uint64 {
	if c.seen == nil || len(c.seen) > maxSeen {
		c.seen = keep(c.seen, sources)
	}
	next := make(map[Series]uint64, len(c.totals))
	for source, n := range sources {
		series := seriesOf(source)
		if _, begun := next[series]; !begun {
			next[series] = c.totals[series]
		}
		next[series] += n - min(c.seen[source], n)
		c.seen[source] = n
	}
	c.totals = next
	return next
}

// keep is what was seen of sources.
func keep[Source comparable](seen, sources map[Source]uint64) map[Source]uint64 {
	kept := make(map[Source]uint64, len(sources))
	for source := range sources {
		if n, ok := seen[source]; ok {
			kept[source] = n
		}
	}
	return kept
}

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
			sums[pickSource{text(t.Service), text(e.Address), t.Directory, queries, e.ID}] += counted(e)
		}
	}
	return sums
}

func ejectionsOf(tables []resolver.Picks) map[ejectionSource]uint64 {
	sums := map[ejectionSource]uint64{}
	for _, t := range tables {
		queries := queriesOf(t)
		for _, reason := range reasons {
			sums[ejectionSource{text(t.Service), string(reason), t.Directory, queries}] += t.Ejections[reason]
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

// text is what Prometheus takes for a label: anything else would fail the scrape.
func text(s string) string { return strings.ToValidUTF8(s, "?") }
