package benchpeers

import (
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

// The sizes of a plot, in pixels.
const (
	nameWidth, barWidth, valueWidth = 390, 360, 70
	barHeight, groupHeight, header  = 14, 40, 50
	healthyColour, slowColour       = "#2b6cb0", "#dd6b20"
)

// plot is an SVG of two bars for each path: the medians with healthy servers and with a slow
// one, and a line from the least run to the most.
func plot(title, format string, all []measured, f figure) string {
	longest := 0.0
	for _, m := range all {
		longest = max(longest, of(m.healthy, f).most, of(m.slow, f).most)
	}
	var out strings.Builder
	width, height := nameWidth+barWidth+valueWidth, header+len(all)*groupHeight
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	label(&out, 8, 18, "start", title)
	legend(&out, nameWidth, healthyColour, "healthy")
	legend(&out, nameWidth+90, slowColour, fmt.Sprintf("one of three takes %v", slowness))
	for i, m := range all {
		y := header + i*groupHeight
		label(&out, nameWidth-8, y+barHeight+4, "end", m.name)
		bar(&out, y, healthyColour, format, of(m.healthy, f), longest)
		bar(&out, y+barHeight+2, slowColour, format, of(m.slow, f), longest)
	}
	out.WriteString("</svg>\n")
	return out.String()
}

func legend(out *strings.Builder, x int, colour, text string) {
	fmt.Fprintf(out, `<rect x="%d" y="26" width="10" height="10" fill="%s"/>`+"\n", x, colour)
	label(out, x+14, 36, "start", text)
}

func label(out *strings.Builder, x, y int, anchor, text string) {
	fmt.Fprintf(out, `<text x="%d" y="%d" text-anchor="%s">%s</text>`+"\n", x, y, anchor, html.EscapeString(text))
}

func bar(out *strings.Builder, y int, colour, format string, s spread, longest float64) {
	scale := func(value float64) float64 { return value / max(longest, 1e-9) * barWidth }
	fmt.Fprintf(out, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", nameWidth, y, scale(s.middle), barHeight, colour)
	fmt.Fprintf(out, `<path d="M%.1f %dH%.1f" stroke="black"/>`+"\n", nameWidth+scale(s.least), y+barHeight/2, nameWidth+scale(s.most))
	label(out, nameWidth+int(scale(s.most))+6, y+barHeight-3, "start", fmt.Sprintf(format, s.middle))
}

func TestAPlotHasABarForEachFigure(t *testing.T) {
	all := []measured{
		{"one & <two>", []benchkit.Measure{{Rate: 100}, {Rate: 50}, {Rate: 200}}, []benchkit.Measure{{Rate: 50}}},
		{"three", []benchkit.Measure{{P99: time.Second}}, []benchkit.Measure{{}}},
	}
	text := plot("calls/s", "%.0f", all, perSecond)
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
	}
	for _, want := range []string{`width="180.0" height="14" fill="#2b6cb0"`, `width="90.0" height="14" fill="#dd6b20"`, "one &amp; &lt;two&gt;", `M480.0 57H750.0`} {
		if !strings.Contains(text, want) {
			t.Errorf("the plot lacks %s:\n%s", want, text)
		}
	}
}
