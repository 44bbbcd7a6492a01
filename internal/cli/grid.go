package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/meshlite-go/meshlite/internal/screen"
)

// field is a column of a grid.
type field struct {
	head  string
	drop  int  // the highest goes first where there is no room; 0 stays
	least int  // width that it may be cut to; 0 is never cut
	begin bool // cut at its begin, where names differ least
}

// grid is a table of text that fits a width if it can.
type grid struct {
	fields []field
	rows   [][]string
	indent int
}

func (g *grid) add(cells ...string) { g.rows = append(g.rows, cells) }

const gap = 2 // between columns

// lines are the head and the rows, and omitted the columns that had no room. Columns
// without any value go first, and are no loss. A width of 0 has room for all.
func (g *grid) lines(width int) (lines, omitted []string) {
	widths := g.widths()
	shown := make([]int, len(g.fields))
	for i := range shown {
		shown[i] = i
	}
	for width > 0 && g.needs(shown, widths, true) > width {
		at := g.first(shown)
		if at < 0 {
			break
		}
		if f := g.fields[shown[at]]; !g.empty(shown[at]) {
			omitted = append(omitted, f.head)
		}
		shown = slices.Delete(shown, at, at+1)
	}
	if width > 0 {
		g.cut(shown, widths, width)
	}
	lines = append(lines, g.line(shown, widths, func(i int) string { return g.fields[i].head }))
	for _, row := range g.rows {
		lines = append(lines, g.line(shown, widths, func(i int) string { return row[i] }))
	}
	return lines, omitted
}

func (g *grid) widths() []int {
	widths := make([]int, len(g.fields))
	for i, f := range g.fields {
		widths[i] = utf8.RuneCountInString(f.head)
		for _, row := range g.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	return widths
}

// needs is the width of the columns, once all are cut to their least if cut.
func (g *grid) needs(shown, widths []int, cut bool) int {
	sum := g.indent + gap*(len(shown)-1)
	for _, i := range shown {
		if least := g.fields[i].least; cut && least > 0 {
			sum += min(widths[i], least)
		} else {
			sum += widths[i]
		}
	}
	return sum
}

// first is the column that goes first, -1 if all must stay.
func (g *grid) first(shown []int) int {
	at, rank := -1, 0
	for n, i := range shown {
		if r := g.fields[i].drop; r > 0 && g.empty(i) {
			return n
		} else if r > rank {
			at, rank = n, r
		}
	}
	return at
}

func (g *grid) empty(i int) bool {
	return !slices.ContainsFunc(g.rows, func(row []string) bool { return row[i] != "-" })
}

// cut narrows the widest of the columns that may be cut until all fit.
func (g *grid) cut(shown, widths []int, width int) {
	for g.needs(shown, widths, false) > width {
		widest := -1
		for _, i := range shown {
			if least := g.fields[i].least; least > 0 && widths[i] > least && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
	}
}

func (g *grid) line(shown, widths []int, text func(i int) string) string {
	var line strings.Builder
	line.WriteString(strings.Repeat(" ", g.indent))
	for n, i := range shown {
		cell := clipped(text(i), widths[i])
		if g.fields[i].begin {
			cell = end(text(i), widths[i])
		}
		if n == len(shown)-1 {
			line.WriteString(cell)
			break
		}
		fmt.Fprintf(&line, "%-*s", widths[i]+gap, cell)
	}
	return line.String()
}

// tables are written one after the other within the width of a terminal.
type tables struct {
	out     io.Writer
	width   int // 0 is no terminal
	omitted []string
}

func newTables(out io.Writer) *tables { return &tables{out: out, width: screen.Columns(out)} }

func (t *tables) write(g *grid) error {
	_, err := fmt.Fprintln(t.out, strings.Join(t.fit(g), "\n"))
	return err
}

// fit is the grid within the width, and notes what had no room.
func (t *tables) fit(g *grid) []string {
	lines, omitted := g.lines(t.width)
	for _, head := range omitted {
		if !slices.Contains(t.omitted, head) {
			t.omitted = append(t.omitted, head)
		}
	}
	return lines
}

// close writes which columns had no room.
func (t *tables) close() error {
	if len(t.omitted) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(t.out, "(no room for %s)\n", strings.Join(t.omitted, ", "))
	return err
}
