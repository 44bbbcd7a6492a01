package cli

import (
	"fmt"
	"math"

	"github.com/meshlite-go/meshlite/internal/scrape"
)

// rated is "-" for rates, which need two readings, before the second one.
func rated(f scrape.Figures, text string) string {
	if !f.Rated {
		return "-"
	}
	return text
}

// perSecond has three digits that count.
func perSecond(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 9.995:
		return fmt.Sprintf("%.2f", v)
	case v < 99.95:
		return fmt.Sprintf("%.1f", v)
	default:
		return countText(v)
	}
}

// countText has seven digits at most.
func countText(v float64) string {
	switch {
	case v < 999_999.5:
		return fmt.Sprintf("%.0f", v)
	case v < 999.95e6:
		return fmt.Sprintf("%.1fM", v/1e6)
	default:
		return fmt.Sprintf("%.0e", v)
	}
}

// successText is 100% only if nothing failed.
func successText(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case v >= 1:
		return "100%"
	case v >= 0.99:
		return fmt.Sprintf("%.2f%%", math.Floor(v*1e4)/100)
	default:
		return fmt.Sprintf("%.1f%%", math.Floor(v*1e3)/10)
	}
}

func partText(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return percent(v)
}

// quantileText has two significant digits, the precision of the buckets, or is ">10s"
// beyond the last bucket.
func quantileText(h scrape.Histogram, q float64) string {
	seconds, beyond := h.Quantile(q)
	if math.IsNaN(seconds) {
		return "-"
	}
	text := latencyText(seconds)
	if beyond {
		text = ">" + text
	}
	return text
}

func latencyText(seconds float64) string {
	for _, unit := range []struct {
		name string
		of   float64
	}{{"µs", 1e-6}, {"ms", 1e-3}, {"s", 1}} {
		v := seconds / unit.of
		switch {
		case v >= 999.5 && unit.of < 1:
			continue
		case v >= 9.95:
			return fmt.Sprintf("%.0f%s", min(v, 9999), unit.name)
		default:
			return fmt.Sprintf("%.1f%s", v, unit.name)
		}
	}
	return "-"
}
