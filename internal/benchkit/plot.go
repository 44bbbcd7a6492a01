package benchkit

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// The sizes of plots, in pixels.
const (
	nameWidth, barWidth, valueWidth = 390, 360, 70
	barHeight, groupHeight, header  = 14, 40, 50

	panelWidth, panelHeight, margin = 380, 260, 50
)

// Spread is the median of runs, and the extremes.
type Spread struct{ Middle, Least, Most float64 }

// NewSpread returns the spread of values, of which there is at least one. Of two in the
// middle the lower one is the median.
func NewSpread(values []float64) Spread {
	sorted := slices.Sorted(slices.Values(values))
	return Spread{sorted[(len(sorted)-1)/2], sorted[0], sorted[len(sorted)-1]}
}

// Series names a colour of a plot.
type Series struct{ Name, Colour string }

// Bars is a plot of bars in groups: the medians, with a line from the least run to the most.
type Bars struct {
	Title  string
	Format string // of a value, such as "%.0f"
	Series []Series
	Groups []Group
}

// Group is a bar for each series.
type Group struct {
	Name   string
	Values []Spread
}

// SVG returns the plot as a document.
func (b Bars) SVG() string {
	longest := 0.0
	for _, g := range b.Groups {
		for _, v := range g.Values {
			longest = max(longest, v.Most)
		}
	}
	d := newDrawing(nameWidth+barWidth+valueWidth, header+len(b.Groups)*groupHeight)
	d.label(8, 18, "start", b.Title)
	for i, s := range b.Series {
		d.legend(nameWidth+90*i, 26, s)
	}
	for i, g := range b.Groups {
		y := header + i*groupHeight
		d.label(nameWidth-8, y+barHeight+4, "end", g.Name)
		for k, v := range g.Values {
			d.bar(y+k*(barHeight+2), b.Series[k].Colour, b.Format, v, longest)
		}
	}
	return d.end()
}

// Panel is a plot of lines over two logarithmic axes: a cost that does not depend on its
// cause is level, one that is proportional to it rises as the diagonal does.
type Panel struct {
	Title  string
	Series []Series
	At     []int       // the causes, above 0, ascending
	Values [][]float64 // of each series, at each cause
}

// Panels returns a document of panels, two in a row.
func Panels(all ...Panel) string {
	d := newDrawing(2*panelWidth, (len(all)+1)/2*panelHeight)
	for i, p := range all {
		d.panel(i%2*panelWidth, i/2*panelHeight, p)
	}
	return d.end()
}

// drawing is an SVG that grows.
type drawing struct{ strings.Builder }

func newDrawing(width, height int) *drawing {
	d := &drawing{}
	fmt.Fprintf(d, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(d, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	return d
}

func (d *drawing) end() string { return d.String() + "</svg>\n" }

func (d *drawing) legend(x, y int, s Series) {
	fmt.Fprintf(d, `<rect x="%d" y="%d" width="10" height="10" fill="%s"/>`+"\n", x, y, s.Colour)
	d.label(x+14, y+10, "start", s.Name)
}

func (d *drawing) label(x, y int, anchor, text string) {
	fmt.Fprintf(d, `<text x="%d" y="%d" text-anchor="%s">%s</text>`+"\n", x, y, anchor, html.EscapeString(text))
}

func (d *drawing) bar(y int, colour, format string, s Spread, longest float64) {
	scale := func(value float64) float64 { return value / max(longest, 1e-9) * barWidth }
	fmt.Fprintf(d, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", nameWidth, y, scale(s.Middle), barHeight, colour)
	fmt.Fprintf(d, `<path d="M%.1f %dH%.1f" stroke="black"/>`+"\n", nameWidth+scale(s.Least), y+barHeight/2, nameWidth+scale(s.Most))
	d.label(nameWidth+int(scale(s.Most))+6, y+barHeight-3, "start", fmt.Sprintf(format, s.Middle))
}

func (d *drawing) panel(x, y int, p Panel) {
	least, most := math.Inf(1), 0.0
	for _, values := range p.Values {
		least, most = min(least, slices.Min(values)), max(most, slices.Max(values))
	}
	causes := logAxis(float64(p.At[0]), float64(p.At[len(p.At)-1]), x+margin, panelWidth-2*margin)
	// Zero has no place on the axis, and a level line should not fill it.
	costs := logAxis(max(least, 1e-3)/2, max(most, 1e-3)*2, y+panelHeight-margin, -(panelHeight - 2*margin - 20))
	d.label(x+8, y+16, "start", p.Title)
	fmt.Fprintf(d, `<path d="M%d %dV%dH%d" stroke="black" fill="none"/>`+"\n", x+margin, y+margin, y+panelHeight-margin, x+panelWidth-margin)
	for _, n := range p.At {
		d.label(int(causes(float64(n))), y+panelHeight-margin+16, "middle", short(float64(n)))
	}
	for _, v := range []float64{least, most} {
		d.label(x+margin-6, int(costs(v)), "end", short(v))
	}
	for i, s := range p.Series {
		d.legend(x+margin+10+i*150, y+24, s)
		var path strings.Builder
		for k, v := range p.Values[i] {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(k, 1)], causes(float64(p.At[k])), costs(v))
		}
		fmt.Fprintf(d, `<path d="%s" stroke="%s" stroke-width="2" fill="none"/>`+"\n", path.String(), s.Colour)
	}
}

// logAxis maps from to to, both above 0, on length pixels that begin at start.
func logAxis(from, to float64, start, length int) func(float64) float64 {
	span := max(math.Log(to/from), 1e-9)
	return func(v float64) float64 {
		return float64(start) + math.Log(max(v, from)/from)/span*float64(length)
	}
}

// short writes three digits at most.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.3gM", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%.3gk", v/1e3)
	}
	return fmt.Sprintf("%.3g", v)
}
