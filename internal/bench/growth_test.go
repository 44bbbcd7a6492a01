package bench

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

var (
	docs   = flag.String("docs", "", "directory of benchmarks.md, whose table of growth is replaced, and of growth.svg")
	growth = flag.Bool("growth", false, "measure how cost grows with its causes, which -figures leaves out")
)

// growthCommand names the place of the tables in docs.
const growthCommand = "make growth"

// steepest is how many times the cost of a unit at the smallest point others may have.
const steepest = 2

// cause is what cost grows with, and how it is measured.
type cause struct {
	name   string // of what grows: "endpoints"
	cost   string // what is measured: "ns for a pick"
	at     []int  // ascending
	series []string
	// judged is how many series, from the first on, are held to steepest; the others are grpc-go's.
	judged int
	// units, if set, is how many of the cause's units a cost is divided by before it is judged.
	units func(n int) float64
	// measure returns the cost of each series at n.
	measure func(t *testing.T, n int) []float64
}

// grown is what one cause has shown: for each series and point, each run.
type grown struct {
	cause
	costs [][][]float64
}

// newGrown takes the first points only, if that is above 0.
func newGrown(c cause, points int) *grown {
	if points > 0 {
		c.at = c.at[:min(points, len(c.at))]
	}
	g := &grown{cause: c, costs: make([][][]float64, len(c.series))}
	for i := range g.costs {
		g.costs[i] = make([][]float64, len(c.at))
	}
	return g
}

// run measures each point once, in an order that is drawn: the speed of a machine drifts.
func (g *grown) run(t *testing.T) {
	t.Helper()
	for _, k := range rand.Perm(len(g.at)) {
		for i, v := range g.measure(t, g.at[k]) {
			g.costs[i][k] = append(g.costs[i][k], v)
		}
	}
}

// unit is the cost of one unit of the cause.
func (g *grown) unit(series, point int) float64 {
	cost := median(g.costs[series][point])
	if g.units == nil {
		return cost
	}
	return cost / g.units(g.at[point])
}

func (g *grown) table() table {
	of := table{title: fmt.Sprintf("%s by %s, medians of %d, in turn", g.cost, g.name, len(g.costs[0][0])), columns: []string{g.name}}
	for i, s := range g.series {
		if of.columns = append(of.columns, s); g.units != nil && i < g.judged {
			of.columns = append(of.columns, "a unit")
		}
		if i < g.judged {
			of.columns = append(of.columns, fmt.Sprintf("of %s's", thousands(float64(g.at[0]))))
		}
	}
	for k, n := range g.at {
		cells, aims := []string{thousands(float64(n))}, []aim(nil)
		for i := range g.series {
			if cells = append(cells, short(median(g.costs[i][k]))); g.units != nil && i < g.judged {
				cells = append(cells, short(g.unit(i, k)))
			}
			if i < g.judged {
				ratio := g.unit(i, k) / g.unit(i, 0)
				cells, aims = append(cells, fmt.Sprintf("%.2fx", ratio)), append(aims, atMost("%.2fx", ratio, steepest))
			}
		}
		of.add(cells, aims...)
	}
	return of
}

// short writes figures of a table whose sizes differ much.
func short(v float64) string {
	if v >= 100 {
		return thousands(v)
	}
	return fmt.Sprintf("%.3g", v)
}

func (g *grown) panel() benchkit.Panel {
	p := benchkit.Panel{Title: g.cost + " by " + g.name, At: g.at}
	colours := []string{"#2b6cb0", "#dd6b20", "#38a169", "#805ad5"}
	for i, s := range g.series {
		p.Series = append(p.Series, benchkit.Series{Name: s, Colour: colours[i%len(colours)]})
		var values []float64
		for k := range g.at {
			values = append(values, median(g.costs[i][k]))
		}
		p.Values = append(p.Values, values)
	}
	return p
}

// markdown is a table of the docs.
func markdown(t table) string {
	var out strings.Builder
	row := func(cells []string) { out.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	fmt.Fprintf(&out, "%s:\n\n", t.title)
	row(append(append([]string(nil), t.columns...), "aim"))
	row(strings.Split(strings.Repeat("---,", len(t.columns))+"---", ","))
	for _, r := range t.rows {
		want, verdict := judge(r.aims)
		row(append(append([]string(nil), r.cells...), strings.TrimSpace(want+" "+verdict)))
	}
	return out.String() + "\n"
}

func TestGrowth(t *testing.T) {
	if !*growth {
		t.Skip("it measures: run `make growth`")
	}
	if *runs < 1 || *window <= 0 {
		t.Fatalf("-runs %d -window %v: write at least 1 run and a window above 0", *runs, *window)
	}
	tables, panels := measureGrowth(t, 0)
	show(t, tables...)
	if *docs == "" {
		return
	}
	page := filepath.Join(*docs, "benchmarks.md")
	old, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%d cores, medians of %d runs.\n\n", runtime.NumCPU(), *runs)
	for _, table := range tables {
		text += markdown(table)
	}
	changed, err := benchkit.Replace(string(old), growthCommand, strings.TrimSuffix(text, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{page: changed, filepath.Join(*docs, "growth.svg"): benchkit.Panels(panels...)} {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// measureGrowth measures the first points of all causes, or all of them if points is 0.
func measureGrowth(t *testing.T, points int) (tables []table, panels []benchkit.Panel) {
	t.Helper()
	for _, c := range causes(startBackends(t)) {
		g := newGrown(c, points)
		for range *runs {
			g.run(t)
		}
		tables, panels = append(tables, g.table()), append(panels, g.panel())
	}
	return tables, panels
}

// The smallest point of every cause can be measured, and costs something.
func TestEveryCauseIsMeasured(t *testing.T) {
	restore := *window
	*window = shortest
	t.Cleanup(func() { *window = restore })
	b := startBackends(t)
	for _, c := range causes(b) {
		g := newGrown(c, 1)
		g.run(t)
		for i, s := range g.series {
			if got := median(g.costs[i][0]); got <= 0 && !mayBeFree(s) {
				t.Errorf("%s by %s: %s at %d is %v, want more than 0", g.cost, g.name, s, g.at[0], got)
			}
		}
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := benchkit.Replace(string(page), growthCommand, ""); err != nil {
		t.Error(err)
	}
}

// A cost of a unit that grows is named, and one that is constant or falls is not.
func TestGrowthIsJudgedByTheUnit(t *testing.T) {
	proportional := cause{name: "channels", cost: "KiB", at: []int{1, 10}, series: []string{"ours", "grpc-go"}, judged: 1,
		units: func(n int) float64 { return float64(n) }, measure: func(_ *testing.T, n int) []float64 { return []float64{float64(7 * n), float64(n * n)} }}
	square := proportional
	square.measure = func(_ *testing.T, n int) []float64 { return []float64{float64(n * n), 1} }
	for want, c := range map[int]cause{0: proportional, 1: square} {
		g := newGrown(c, 0)
		g.run(t)
		of := g.table()
		if got := of.missed(); got != want {
			t.Errorf("%d rows are too steep, want %d: %v", got, want, of.rows)
		}
		if text := markdown(of); strings.Count(text, "✗") != want || !strings.Contains(text, "| channels | ours | a unit | of 1's | grpc-go | aim |") {
			t.Errorf("the table is\n%s", text)
		}
	}
}
