package benchpeers

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

// figure is one of a measurement.
type figure func(benchkit.Measure) float64

func perSecond(m benchkit.Measure) float64 { return m.Rate }
func p50(m benchkit.Measure) float64       { return millis(m.P50) }
func p99(m benchkit.Measure) float64       { return millis(m.P99) }
func clientCPU(m benchkit.Measure) float64 { return micros(m.CPU) }
func proxyCPU(m benchkit.Measure) float64  { return micros(m.Between) }
func serverCPU(m benchkit.Measure) float64 { return micros(m.Servers) }

func millis(d time.Duration) float64 { return d.Seconds() * 1e3 }
func micros(d time.Duration) float64 { return d.Seconds() * 1e6 }

// spread is one that can be written.
type spread struct{ benchkit.Spread }

func of(all []benchkit.Measure, f figure) spread {
	var values []float64
	for _, m := range all {
		values = append(values, f(m))
	}
	return spread{benchkit.NewSpread(values)}
}

func (s spread) text(format string) string {
	return fmt.Sprintf(format+" ("+format+"-"+format+")", s.Middle, s.Least, s.Most)
}

// table is in Markdown.
func table(all []measured, missing []string) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%d callers in a closed loop, 100 bytes there and back, three servers, %d cores; medians of %d runs of %v, and their extremes. CPU is that of the processes for one call.\n\n",
		benchkit.Callers, runtime.NumCPU(), *runs, *window)
	columns := []string{"client and servers", "calls/s", "p50 ms", "p99 ms", "client CPU µs", "proxy", "servers", fmt.Sprintf("one of three takes %v: calls/s", slowness), "p50 ms", "p99 ms"}
	row(&out, columns...)
	row(&out, slices.Repeat([]string{"---"}, len(columns))...)
	for _, m := range all {
		row(&out, m.name, of(m.healthy, perSecond).text("%.0f"), of(m.healthy, p50).text("%.2f"), of(m.healthy, p99).text("%.1f"),
			of(m.healthy, clientCPU).text("%.0f"), of(m.healthy, proxyCPU).text("%.0f"), of(m.healthy, serverCPU).text("%.0f"),
			of(m.slow, perSecond).text("%.0f"), of(m.slow, p50).text("%.2f"), of(m.slow, p99).text("%.1f"))
	}
	for _, note := range missing {
		out.WriteString("\n" + note + "\n")
	}
	return out.String()
}

func row(out *strings.Builder, cells ...string) {
	out.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

// The table in docs stands behind a line that names this.
const command = "make bench-peers"

// publish prints the table and, if they are asked for, writes it and the plots into docs.
func publish(all []measured, missing []string) error {
	text := table(all, missing)
	fmt.Print("\n", text, "\n")
	if *docs == "" {
		return nil
	}
	page := filepath.Join(*docs, "benchmarks.md")
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	changed, err := benchkit.Replace(string(old), command, text)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(page, []byte(changed), 0o644),
		os.WriteFile(filepath.Join(*docs, "peers-throughput.svg"), []byte(plot("calls/s", "%.0f", all, perSecond)), 0o644),
		os.WriteFile(filepath.Join(*docs, "peers-p99.svg"), []byte(plot("p99, ms", "%.1f", all, p99)), 0o644),
	)
}

func TestThePageHasAPlaceForTheTable(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	changed, err := benchkit.Replace(string(page), command, "| a |\n")
	if err != nil || !strings.Contains(changed, "| a |") {
		t.Errorf("the page is, %v:\n%s", err, changed)
	}
}

func TestSpread(t *testing.T) {
	got := of([]benchkit.Measure{{Rate: 30}, {Rate: 10}, {Rate: 20}}, perSecond)
	if got.Spread != (benchkit.Spread{Middle: 20, Least: 10, Most: 30}) || got.text("%.0f") != "20 (10-30)" {
		t.Errorf("the spread of 30, 10 and 20 is %v, %s", got, got.text("%.0f"))
	}
}
