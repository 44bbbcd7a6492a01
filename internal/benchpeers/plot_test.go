package benchpeers

import (
	"fmt"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

// plot is an SVG of two bars for each path: with healthy servers and with a slow one.
func plot(title, format string, all []measured, f figure) string {
	b := benchkit.Bars{Title: title, Format: format, Series: []benchkit.Series{
		{Name: "healthy", Colour: "#2b6cb0"}, {Name: fmt.Sprintf("one of three takes %v", slowness), Colour: "#dd6b20"},
	}}
	for _, m := range all {
		b.Groups = append(b.Groups, benchkit.Group{Name: m.name, Values: []benchkit.Spread{of(m.healthy, f).Spread, of(m.slow, f).Spread}})
	}
	return b.SVG()
}
