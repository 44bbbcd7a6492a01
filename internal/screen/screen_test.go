package screen

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A line that wraps, or a frame higher than the window, could not be drawn over.
func TestFrameKeepsToTheWindow(t *testing.T) {
	var frame []string
	for i := range 10 {
		frame = append(frame, strings.Repeat("█", 10*i))
	}
	for _, size := range [][2]int{{80, 24}, {20, 5}, {1, 1}} {
		var out bytes.Buffer
		New(&out, func() (int, int) { return size[0], size[1] }).Show(frame)
		lines := strings.Split(strings.TrimSuffix(out.String(), clearBelow), "\n")
		if len(lines) > max(size[1], 1) {
			t.Errorf("in %v it draws %d lines", size, len(lines))
		}
		for _, line := range lines {
			line = strings.NewReplacer(hideCursor, "", clearLine, "").Replace(line)
			if n := utf8.RuneCountInString(line); n > size[0] {
				t.Errorf("in %v there is a line of %d: %q", size, n, line)
			}
		}
	}
}

// What is drawn after a window was emptied stands at its top, and not so many lines higher.
func TestClearForgetsTheFrame(t *testing.T) {
	var out bytes.Buffer
	s := New(&out, func() (int, int) { return 80, 24 })
	s.Show([]string{"one", "two"})
	out.Reset()
	s.Clear()
	s.Show([]string{"three"})
	if got, want := out.String(), clearAll+hideCursor+"three"+clearLine+"\n"+clearBelow; got != want {
		t.Errorf("it writes %q, want %q", got, want)
	}
	if width, height := s.Size(); width != 80 || height != 24 {
		t.Errorf("the size is %d, %d", width, height)
	}
	s.Close()
	out.Reset()
	if s.Clear(); out.Len() > 0 {
		t.Errorf("once closed it writes %q", out.String())
	}
}

func TestFileIsNoScreen(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, w := range []io.Writer{file, io.Discard} {
		if _, ok := Of(w); ok {
			t.Errorf("%T is said to be a terminal", w)
		}
	}
}

func ExampleScreen() {
	var out bytes.Buffer
	s := New(&out, func() (int, int) { return 80, 24 })
	s.Show([]string{"240 calls/s"})
	s.Event("catalog-1 is killed") // takes the place of the frame, which moves down
	s.Close()
	fmt.Printf("%q\n", out.String())
	// Output: "\x1b[?25l240 calls/s\x1b[K\n\x1b[J\x1b[?25l\r\x1b[1Acatalog-1 is killed\x1b[K\n240 calls/s\x1b[K\n\x1b[J\x1b[?25h"
}
