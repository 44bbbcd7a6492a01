package benchkit

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func wantSVG(t *testing.T, text string, parts ...string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
	}
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("the plot lacks %s:\n%s", part, text)
		}
	}
}

func TestAPlotHasABarForEachFigure(t *testing.T) {
	b := Bars{"calls/s", "%.0f", []Series{{"healthy", "#2b6cb0"}, {"slow", "#dd6b20"}}, []Group{
		{"one & <two>", []Spread{NewSpread([]float64{100, 50, 200}), NewSpread([]float64{50})}},
		{"three", []Spread{{}, {}}},
	}}
	wantSVG(t, b.SVG(), `width="180.0" height="14" fill="#2b6cb0"`, `width="90.0" height="14" fill="#dd6b20"`, "one &amp; &lt;two&gt;", `M480.0 57H750.0`)
}

// A cost that is level is a level line, one that is proportional to its cause a straight one
// that rises; a cost of zero stays within the plot.
func TestAPanelIsLogarithmic(t *testing.T) {
	wantSVG(t, Panels(
		Panel{"level", []Series{{"ours", "red"}}, []int{1, 10, 100}, [][]float64{{5, 5, 5}}},
		Panel{"rising", []Series{{"ours", "blue"}}, []int{1, 10, 100}, [][]float64{{1, 10, 100}}},
		Panel{"zero", []Series{{"ours", "green"}}, []int{1}, [][]float64{{0}}},
	), `M50.0 140.0L190.0 140.0L330.0 140.0`, `M430.0 193.8L570.0 140.0L710.0 86.2`, `>100</text>`)
	for v, want := range map[float64]string{0.5: "0.5", 999: "999", 10_000: "10k", 1 << 20: "1.05M"} {
		if got := short(v); got != want {
			t.Errorf("%v is written %s, want %s", v, got, want)
		}
	}
}

func TestThePlaceOfATableIsReplaced(t *testing.T) {
	page := "a\n<!-- make x -->\nold\n<!-- end -->\nb\n<!-- make y -->\n<!-- end -->\n"
	got, err := Replace(page, "make y", "new")
	if want := "a\n<!-- make x -->\nold\n<!-- end -->\nb\n<!-- make y -->\n\nnew\n<!-- end -->\n"; err != nil || got != want {
		t.Errorf("the page is %q, %v", got, err)
	}
	if _, err := Replace(page, "make z", "new"); err == nil || !strings.Contains(err.Error(), "make z") {
		t.Errorf("a page without a place: %v", err)
	}
}
