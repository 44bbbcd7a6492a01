package demo

import (
	"fmt"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/internal/screen"
)

const barWidth = 24

// liveView draws scenes on a terminal.
type liveView struct{ screen *screen.Screen }

func (*liveView) every() time.Duration { return 200 * time.Millisecond }

func (v *liveView) event(text string) { v.screen.Event(text) }
func (v *liveView) show(s scene)      { v.screen.Show(frame(s)) }
func (v *liveView) close()            { v.screen.Close() }

// frame is the picture of a scene.
func frame(s scene) []string {
	lines := []string{
		"",
		fmt.Sprintf("  %s %4.1fs of %.0fs  %s", bar(s.since.Seconds()/s.length.Seconds(), 2*barWidth), s.since.Seconds(), s.length.Seconds(), s.phase),
		fmt.Sprintf("  %.0f calls/s   p50 %s   p99 %s   failed %d of %d", s.rate, millis(s.p50), millis(s.p99), s.failed, s.calls),
		fmt.Sprintf("  cache hits %.0f%%   refused to the abusive customer %d", 100*s.cache.ratio(), s.refused),
		"",
	}
	for _, a := range s.actors {
		if a.fate != "" {
			lines = append(lines, fmt.Sprintf("  %-13s %s", a.name, a.fate))
			continue
		}
		lines = append(lines, fmt.Sprintf("  %-13s %s %3.0f%%  %d calls", a.name, bar(a.part, barWidth), 100*a.part, a.calls))
	}
	return append(lines, "")
}

func bar(part float64, width int) string {
	full := min(max(int(part*float64(width)+0.5), 0), width)
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}
