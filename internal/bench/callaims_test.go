package bench

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

// comparison is a figure of ours beside one of a peer.
type comparison struct {
	of, peer      string
	ours, against float64
	unit          string
	aims          []aim
}

func (c comparison) ratio() float64 { return c.ours / c.against }

// atLeast aims at a ratio to the peer.
func (c comparison) atLeast(limit float64) comparison {
	c.aims = append(c.aims, atLeast("%.2fx", c.ratio(), limit))
	return c
}

func (c comparison) cells() []string {
	return []string{c.of, written(c.unit, c.ours), c.peer, written(c.unit, c.against), fmt.Sprintf("%.2fx", c.ratio())}
}

// callAims holds whole calls to what they should reach. Who is not installed is not
// compared with.
func callAims(measured map[string]*tally) table {
	table := table{
		title:   "The same, beside its peers",
		columns: []string{"what", "figure", "peer", "its figure", "ratio"},
	}
	for _, c := range slices.Concat(whenHealthy(measured), whenOneIsSlow(measured), tails(measured)) {
		table.add(c.cells(), c.aims...)
	}
	return table
}

const (
	perSecond = "calls/s"
	millis    = "ms"
)

func written(unit string, value float64) string {
	if unit == perSecond {
		return thousands(value) + " " + unit
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}

func whenHealthy(measured map[string]*tally) []comparison {
	rate := func(path string) float64 { return middle(measured[path].healthy, ratesOf) }
	compare := func(ours, peer string) comparison {
		return comparison{of: "healthy: " + ours, peer: peer, ours: rate(ours), against: rate(peer), unit: perSecond}
	}
	all := []comparison{compare(meshLeastRequest, grpcRoundRobin).atLeast(1), compare(meshLeastRequest, grpcTuned).atLeast(0.95),
		compare(meshLeastRequest, grpcDeadline).atLeast(0.95), compare(meshSecured, grpcSecured).atLeast(0.85),
		compare(meshStreams, grpcRoundRobin).atLeast(1.3), compare(meshStreams, grpcTuned).atLeast(1.3)}
	for peer, limit := range map[string]float64{haproxyLeastConn: 1.6, nginxLeastConn: 2.1} {
		if measured[peer] != nil {
			all = append(all, compare(meshLeastRequest, peer).atLeast(limit))
		}
	}
	slices.SortStableFunc(all, func(a, b comparison) int { return int(b.against - a.against) })
	return append(all, compare(meshPeakEWMA, grpcRoundRobin), compare(grpcDeadline, grpcTuned))
}

func whenOneIsSlow(measured map[string]*tally) []comparison {
	rate := func(path string) float64 { return middle(measured[path].slow, ratesOf) }
	compare := func(ours, peer string) comparison {
		return comparison{of: "one slow: " + ours, peer: peer, ours: rate(ours), against: rate(peer), unit: perSecond}
	}
	itself := func(path string) comparison {
		return comparison{of: "one slow: " + path, peer: "itself, all healthy", ours: rate(path), against: middle(measured[path].healthy, ratesOf), unit: perSecond}
	}
	var all []comparison
	for _, ours := range []string{meshPick, meshLeastRequest} {
		all = append(all, itself(ours).atLeast(0.95), compare(ours, grpcLeastRequest).atLeast(3))
		if best := bestOf(measured, proxies, rate); best != "" {
			all = append(all, compare(ours, best).atLeast(1.6))
		}
	}
	return append(all, itself(meshPeakEWMA))
}

// tails are shown without an aim: a policy that looks at what is in flight alone must
// send a call there now and then, and one in a hundred makes the p99.
func tails(measured map[string]*tally) []comparison {
	tail := func(path string) float64 { return middle(measured[path].slow, p99Of) }
	compare := func(ours, peer string) comparison {
		return comparison{of: "one slow, p99: " + ours, peer: peer, ours: tail(ours), against: tail(peer), unit: millis}
	}
	shortest := func(path string) float64 { return -tail(path) }
	best := bestOf(measured, append([]string{grpcRoundRobin, grpcLeastRequest}, proxies...), shortest)
	return []comparison{compare(meshPeakEWMA, best), compare(meshLeastRequest, best)}
}

var proxies = []string{nginxLeastConn, haproxyLeastConn}

// bestOf is the one that was measured whose figure is largest, "" if none was.
func bestOf(measured map[string]*tally, names []string, figure func(string) float64) (best string) {
	for _, name := range slices.Sorted(maps.Keys(measured)) {
		if slices.Contains(names, name) && (best == "" || figure(name) > figure(best)) {
			best = name
		}
	}
	return best
}

func TestCallsAreHeldToTheirAims(t *testing.T) {
	of := func(healthy, slow float64, tail time.Duration) *tally {
		return &tally{[]benchkit.Measure{{Rate: healthy}}, []benchkit.Measure{{Rate: slow, P99: tail}}}
	}
	measured := map[string]*tally{
		grpcRoundRobin: of(1000, 100, 21*time.Millisecond), grpcTuned: of(1040, 100, 21*time.Millisecond), grpcDeadline: of(930, 100, 21*time.Millisecond), grpcLeastRequest: of(990, 300, 22*time.Millisecond),
		meshPick: of(1000, 960, 21*time.Millisecond), meshLeastRequest: of(940, 930, 21*time.Millisecond), meshPeakEWMA: of(900, 890, 5*time.Millisecond), meshStreams: of(1400, 1300, 21*time.Millisecond),
		grpcSecured: of(800, 100, 21*time.Millisecond), meshSecured: of(672, 660, 21*time.Millisecond),
	}
	if table := callAims(measured); table.missed() != 3 || len(table.rows) != 15 {
		t.Errorf("%d of %d rows miss their aim without proxies, want 3 of 15", table.missed(), len(table.rows))
	}
	measured[haproxyLeastConn], measured[nginxLeastConn] = of(600, 590, 20*time.Millisecond), of(400, 380, 23*time.Millisecond)
	table := callAims(measured)
	if table.missed() != 5 || len(table.rows) != 19 {
		t.Errorf("%d of %d rows miss their aim, want 5 of 19", table.missed(), len(table.rows))
	}
	var out strings.Builder
	if err := table.write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0.94x >= 1.00x ✗ missed: 0.94x", "0.90x >= 0.95x ✗ missed: 0.90x", "1.01x >= 0.95x ✓", "0.89x -", "0.84x >= 0.85x ✗ missed: 0.84x", "2.35x >= 2.10x ✓", "1.57x >= 1.60x ✗", "3.10x >= 3.00x ✓", "1.58x >= 1.60x ✗", "1.63x >= 1.60x ✓", "0.96x >= 0.95x ✓", "0.99x >= 0.95x ✓", "0.25x -"} {
		if !strings.Contains(squeeze(out.String()), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}
