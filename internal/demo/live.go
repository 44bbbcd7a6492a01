package demo

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"

	barWidth = 24
)

// liveView draws over itself at the foot of a terminal; events scroll away above
// it. Each drawing is one write, so that nothing flickers.
type liveView struct {
	out  io.Writer
	size func() (width, height int)

	mu     sync.Mutex
	lines  int // drawn last
	last   []string
	closed bool
}

func (*liveView) every() time.Duration { return 200 * time.Millisecond }

func (v *liveView) event(text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.draw([]string{text}, v.last)
}

func (v *liveView) show(s scene) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.draw(nil, frame(s))
}

// close leaves the last frame standing and gives the cursor back.
func (v *liveView) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.closed {
		v.closed = true
		_, _ = io.WriteString(v.out, showCursor)
	}
}

// draw writes events where the frame was, and the frame below them.
func (v *liveView) draw(events, lines []string) {
	if v.closed {
		return
	}
	width, height := v.size()
	var out bytes.Buffer
	out.WriteString(hideCursor)
	if v.lines > 0 {
		fmt.Fprintf(&out, "\r\x1b[%dA", v.lines)
	}
	for _, line := range events {
		out.WriteString(line + clearLine + "\n")
	}
	v.last = lines
	// A frame higher than the terminal could not be drawn over.
	lines = lines[:min(len(lines), max(height-1, 0))]
	for _, line := range lines {
		out.WriteString(clip(line, width-1) + clearLine + "\n")
	}
	out.WriteString(clearBelow)
	v.lines = len(lines)
	_, _ = v.out.Write(out.Bytes()) // a reader that is gone must not end the story
}

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

// clip cuts a line at the edge of the terminal, where it would wrap.
func clip(line string, width int) string {
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	runes := []rune(line)
	return string(runes[:max(width, 0)])
}
