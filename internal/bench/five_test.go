package bench

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

// One of five backends is slow beyond all tails: few enough calls may go there that neither
// p99 nor p99.9 is above that of five healthy ones.
const (
	fiveBackends = 5
	fiveCallers  = 16
	fiveSlowness = 200 * time.Millisecond
	fiveService  = "catalog-of-five"
)

func ofFive(b *backends) []string { return b.Five }

func fivePaths() []path {
	return []path{
		{name: grpcRoundRobin, start: bare("round_robin", ofFive)},
		{name: grpcLeastRequest, start: bare("least_request_experimental", ofFive)},
		{name: meshLeastRequest, start: meshed(fiveService, benchkit.Mesh{Policy: "least_request", Security: benchkit.Plaintext})},
		{name: meshPeakEWMA, start: meshed(fiveService, benchkit.Mesh{Policy: "peak_ewma", Security: benchkit.Plaintext})},
	}
}

func TestOneOfFiveFigures(t *testing.T) {
	onlyForFigures(t)
	load := benchkit.Load{Warm: warmUp, Window: *window, Callers: fiveCallers}
	show(t, fiveTable(measurePaths(t, fivePaths(), load, fiveSlowness)))
}

func p999Of(m benchkit.Measure) float64 { return m.P999.Seconds() * 1e3 }

// fiveTable holds both policies of this module that see load to the tails without the slow one.
func fiveTable(measured map[string]*tally, _ []string) table {
	table := table{
		title:   fmt.Sprintf("One of %d backends takes %v: %d callers in a closed loop, medians of %d", fiveBackends, fiveSlowness, fiveCallers, *runs),
		columns: []string{"path", "all healthy: p99 ms", "p99.9 ms", "| one slow: p99 ms", "p99.9 ms", "ratios", "calls there"},
	}
	for _, p := range fivePaths() {
		m := measured[p.name]
		cells, aims, ratios := []string{p.name}, []aim(nil), ""
		for _, figure := range []func(benchkit.Measure) float64{p99Of, p999Of} {
			ratio := middle(m.slow, figure) / middle(m.healthy, figure)
			ratios += fmt.Sprintf("%.2fx ", ratio)
			if slices.Contains([]string{meshLeastRequest, meshPeakEWMA}, p.name) {
				aims = append(aims, atMost("%.2fx", ratio, 1))
			}
		}
		for _, all := range [][]benchkit.Measure{m.healthy, m.slow} {
			cells = append(cells, fmt.Sprintf("%.1f", middle(all, p99Of)), fmt.Sprintf("%.1f", middle(all, p999Of)))
		}
		cells[3] = "| " + cells[3]
		table.add(append(cells, ratios, fmt.Sprintf("%.2f %%", middle(m.slow, shareOf))), aims...)
	}
	return table
}

func TestTailsOfFiveAreHeldToTheirAims(t *testing.T) {
	of := func(healthy, slow time.Duration) *tally {
		return &tally{[]benchkit.Measure{{P99: healthy, P999: 2 * healthy}}, []benchkit.Measure{{P99: slow, P999: 2 * slow}}}
	}
	const ms = time.Millisecond
	measured := map[string]*tally{grpcRoundRobin: of(4*ms, 200*ms), grpcLeastRequest: of(4*ms, 200*ms), meshLeastRequest: of(4*ms, 3*ms), meshPeakEWMA: of(4*ms, 5*ms)}
	table := fiveTable(measured, nil)
	if want, got := judge(table.rows[3].aims); want != "<= 1.00x, <= 1.00x" || got != "✗ missed: 1.25x, 1.25x" || table.missed() != 1 {
		t.Errorf("%d rows miss their aim; that of peak EWMA is %q, %q", table.missed(), want, got)
	}
}
