package bench

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
)

// aim is what a figure should be, and whether it is.
type aim struct {
	want, got string
	held      bool
}

// atMost aims at a figure of no more than limit. Format writes both.
func atMost(format string, got, limit float64) aim {
	return aim{"<= " + fmt.Sprintf(format, limit), fmt.Sprintf(format, got), got <= limit}
}

// atLeast aims at a figure of no less than limit.
func atLeast(format string, got, limit float64) aim {
	return aim{">= " + fmt.Sprintf(format, limit), fmt.Sprintf(format, got), got >= limit}
}

// allocsAtMost aims at no more than limit allocations.
func allocsAtMost(got, limit float64) aim {
	want := "no allocation"
	if limit > 0 {
		want = fmt.Sprintf("<= %.0f allocation", limit)
	}
	return aim{want, fmt.Sprintf("%.0f allocations", got), got <= limit}
}

// table is figures with their aims.
type table struct {
	title   string
	columns []string
	rows    []row
	notes   []string
}

type row struct {
	cells []string
	aims  []aim
}

func (t *table) add(cells []string, aims ...aim) { t.rows = append(t.rows, row{cells, aims}) }

// missed counts the rows that miss an aim.
func (t *table) missed() (n int) {
	for _, r := range t.rows {
		if slices.ContainsFunc(r.aims, func(a aim) bool { return !a.held }) {
			n++
		}
	}
	return n
}

func (t *table) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	columns := t.columns
	aimed := slices.ContainsFunc(t.rows, func(r row) bool { return len(r.aims) > 0 })
	if aimed {
		columns = append(slices.Clone(columns), "aim", "")
	}
	fmt.Fprintf(w, "\n%s\n\n%s\n", t.title, strings.Join(columns, "\t"))
	for _, r := range t.rows {
		cells := r.cells
		if aimed {
			want, verdict := judge(r.aims)
			cells = append(slices.Clone(cells), want, verdict)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	for _, note := range t.notes {
		fmt.Fprintln(w, note)
	}
	return w.Flush()
}

// show prints tables, and how many rows of each miss an aim.
func show(t *testing.T, tables ...table) {
	t.Helper()
	for _, table := range tables {
		if err := table.write(os.Stdout); err != nil {
			t.Fatal(err)
		}
		if n := table.missed(); n > 0 {
			fmt.Printf("%d of %d rows miss their aim\n", n, len(table.rows))
		}
	}
}

// judge returns the aims of a row, and which of them are missed by what.
func judge(aims []aim) (want, verdict string) {
	if len(aims) == 0 {
		return "-", ""
	}
	var wanted, missed []string
	for _, a := range aims {
		wanted = append(wanted, a.want)
		if !a.held {
			missed = append(missed, a.got)
		}
	}
	want = strings.Join(wanted, ", ")
	if len(missed) > 0 {
		return want, "✗ missed: " + strings.Join(missed, ", ")
	}
	return want, "✓"
}

// median is the one in the middle, or the lower one of two.
func median(values []float64) float64 {
	return slices.Sorted(slices.Values(values))[(len(values)-1)/2]
}

func TestATableSaysWhatMissesItsAim(t *testing.T) {
	table := table{title: "picks", columns: []string{"policy", "ns", "ratio"}, notes: []string{"that is all"}}
	table.add([]string{"swift", "12", "0.50x"}, atMost("%.2fx", 0.5, 0.5), allocsAtMost(0, 0))
	table.add([]string{"slow", "30", "1.20x"}, atMost("%.2fx", 1.2, 1), allocsAtMost(2, 1))
	table.add([]string{"lossy", "7", "0.90x"}, atLeast("%.2fx", 0.9, 0.95))
	table.add([]string{"untold", "9", "0.30x"})
	var out strings.Builder
	if err := table.write(&out); err != nil {
		t.Fatal(err)
	}
	want := `
picks

policy  ns  ratio  aim                   
swift   12  0.50x  <= 0.50x, no allocation  ✓
slow    30  1.20x  <= 1.00x, <= 1 allocation  ✗ missed: 1.20x, 2 allocations
lossy   7   0.90x  >= 0.95x               ✗ missed: 0.90x
untold  9   0.30x  -                      
that is all
`
	if squeeze(out.String()) != squeeze(want) {
		t.Errorf("the table is\n%s\nwant\n%s", out.String(), want)
	}
	if n := table.missed(); n != 2 {
		t.Errorf("%d rows miss an aim, want 2", n)
	}
}

// squeeze leaves out how wide columns are.
func squeeze(text string) string { return strings.Join(strings.Fields(text), " ") }

func TestMedian(t *testing.T) {
	for want, values := range map[float64][]float64{1: {1}, 2: {3, 1, 2}, 4: {9, 4, 5, 1}} {
		if got := median(values); got != want {
			t.Errorf("the median of %v is %v, want %v", values, got, want)
		}
	}
}
