// Package screen redraws a status frame at the foot of a terminal, while events scroll
// above it. The demo and chaos report through it.
//
//	if s, ok := screen.Of(os.Stderr); ok {
//		s.Event("catalog-1 is killed")
//		s.Show([]string{"240 calls/s", "failed 0"})
//		s.Close()
//	}
package screen

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"unicode/utf8"
)

const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"
	clearAll   = "\x1b[H\x1b[J"
)

// Screen is a terminal that is drawn on. Each drawing is one write, so that nothing
// flickers. It is safe for concurrent use.
type Screen struct {
	out  io.Writer
	size func() (width, height int)

	mu     sync.Mutex
	lines  int // drawn last
	last   []string
	closed bool
}

// Of is w as a screen, if it is a terminal that understands being drawn on.
func Of(w io.Writer) (*Screen, bool) {
	t, ok := terminalOf(w)
	if !ok {
		return nil, false
	}
	return New(w, t.size), true
}

// New draws on out, whose size is asked each time, since windows change.
func New(out io.Writer, size func() (width, height int)) *Screen {
	return &Screen{out: out, size: size}
}

// Event writes a line above the frame.
func (s *Screen) Event(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draw([]string{text}, s.last)
}

// Show draws a frame in the place of the last one. What does not fit is left out.
func (s *Screen) Show(frame []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draw(nil, frame)
}

// Size is how much there is room for, now.
func (s *Screen) Size() (width, height int) { return s.size() }

// Clear empties the whole window, where lines that were drawn wrap since it is narrower.
func (s *Screen) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.lines, s.last = 0, nil
		_, _ = io.WriteString(s.out, clearAll)
	}
}

// Close leaves the last frame and shows the cursor again. Later frames are not drawn.
func (s *Screen) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		_, _ = io.WriteString(s.out, showCursor)
	}
}

// draw writes events where the frame was, and the frame below them.
func (s *Screen) draw(events, frame []string) {
	if s.closed {
		return
	}
	width, height := s.size()
	var out bytes.Buffer
	out.WriteString(hideCursor)
	if s.lines > 0 {
		fmt.Fprintf(&out, "\r\x1b[%dA", s.lines)
	}
	for _, line := range events {
		out.WriteString(line + clearLine + "\n")
	}
	s.last = frame
	// A frame higher than the terminal could not be drawn over.
	frame = frame[:min(len(frame), max(height-1, 0))]
	for _, line := range frame {
		out.WriteString(clip(line, width-1) + clearLine + "\n")
	}
	out.WriteString(clearBelow)
	s.lines = len(frame)
	_, _ = s.out.Write(out.Bytes()) // a closed reader must not end the run
}

// clip cuts a line at the edge of the terminal, where it would wrap.
func clip(line string, width int) string {
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	runes := []rune(line)
	return string(runes[:max(width, 0)])
}
