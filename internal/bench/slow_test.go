package bench

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

const (
	slowness = 20 * time.Millisecond
	warmUp   = 500 * time.Millisecond
)

// tally is what is measured of a path, once for each run.
type tally struct{ healthy, slow []benchkit.Measure }

// ratesOf and the others are one figure of each run.
func ratesOf(m benchkit.Measure) float64   { return m.Rate }
func p50Of(m benchkit.Measure) float64     { return m.P50.Seconds() * 1e3 }
func p99Of(m benchkit.Measure) float64     { return m.P99.Seconds() * 1e3 }
func cpuOf(m benchkit.Measure) float64     { return m.CPU.Seconds() * 1e6 }
func betweenOf(m benchkit.Measure) float64 { return m.Between.Seconds() * 1e6 }
func shareOf(m benchkit.Measure) float64   { return m.Slow * 100 }

func middle(all []benchkit.Measure, figure func(benchkit.Measure) float64) float64 {
	var values []float64
	for _, m := range all {
		values = append(values, figure(m))
	}
	return median(values)
}

func TestSlowBackendFigures(t *testing.T) {
	onlyForFigures(t)
	measured, missing := measurePaths(t, paths(), benchkit.Load{Warm: warmUp, Window: *window}, slowness)
	show(t, callTable(measured, missing), callAims(measured))
}

// measurePaths takes them in turn, each with healthy backends and, if slow is above 0, at once
// with one that takes that long: the speed of a machine drifts, and so it does for all.
func measurePaths(t *testing.T, all []path, load benchkit.Load, slow time.Duration) (measured map[string]*tally, missing []string) {
	b := startBackends(t)
	measured = map[string]*tally{}
	dials := map[string]dial{}
	for _, p := range all {
		if why := benchkit.Absent(t, p.program); why != "" {
			missing = append(missing, fmt.Sprintf("SKIPPED: %s: %s", p.name, why))
			continue
		}
		measured[p.name], dials[p.name] = &tally{}, p.start(t, b)
	}
	for range *runs {
		for _, p := range all {
			d, m := dials[p.name], measured[p.name]
			if d == nil {
				continue
			}
			m.healthy = append(m.healthy, measureOnce(t, b, d, load, 0))
			if slow > 0 {
				m.slow = append(m.slow, measureOnce(t, b, d, load, slow))
			}
		}
	}
	return measured, missing
}

func measureOnce(t *testing.T, b *backends, d dial, load benchkit.Load, delay time.Duration) benchkit.Measure {
	t.Helper()
	b.slow(t, delay)
	c := d(t)
	defer c.Close()
	runtime.GC() // of what others have left
	m, err := load.Run(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func callTable(measured map[string]*tally, missing []string) table {
	table := table{
		title: fmt.Sprintf("Whole calls on loopback: %d callers in a closed loop, 100 bytes there and back, three backends in one process, %d cores, medians of %d",
			benchkit.Callers, runtime.NumCPU(), *runs),
		columns: []string{"path", "calls/s", "p50 ms", "p99 ms", "client CPU", fmt.Sprintf("| one of three takes %v: calls/s", slowness), "p99 ms", "calls there"},
		notes:   append(missing, "client CPU is the callers' process for one call; the backends and proxies are processes of their own"),
	}
	for _, p := range paths() {
		m := measured[p.name]
		if m == nil {
			continue
		}
		table.add([]string{
			p.name,
			thousands(middle(m.healthy, ratesOf)), fmt.Sprintf("%.2f", middle(m.healthy, p50Of)), fmt.Sprintf("%.1f", middle(m.healthy, p99Of)),
			fmt.Sprintf("%.0f us", middle(m.healthy, cpuOf)),
			"| " + thousands(middle(m.slow, ratesOf)), fmt.Sprintf("%.1f", middle(m.slow, p99Of)), fmt.Sprintf("%.1f %%", middle(m.slow, shareOf)),
		})
	}
	return table
}

// thousands writes 36800 as 36,800.
func thousands(n float64) string {
	text := fmt.Sprintf("%.0f", n)
	var parts []string
	for ; len(text) > 3; text = text[:len(text)-3] {
		parts = append([]string{text[len(text)-3:]}, parts...)
	}
	return strings.Join(append([]string{text}, parts...), ",")
}

func TestThousands(t *testing.T) {
	for n, want := range map[float64]string{7: "7", 999.6: "1,000", 36_800: "36,800", 1_234_567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%v is written %q, want %q", n, got, want)
		}
	}
}
