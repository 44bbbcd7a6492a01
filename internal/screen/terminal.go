package screen

import (
	"io"
	"os"
)

// terminal is a file that can be drawn on.
type terminal struct{ file *os.File }

// terminalOf is w as a terminal, if it is one that understands being drawn on.
func terminalOf(w io.Writer) (terminal, bool) {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" || os.Getenv("TERM") == "" {
		return terminal{}, false
	}
	_, _, err := windowSize(file)
	return terminal{file}, err == nil
}

// size is asked each time, since windows change.
func (t terminal) size() (width, height int) {
	width, height, err := windowSize(t.file)
	if err != nil || width == 0 || height == 0 {
		return 80, 24
	}
	return width, height
}

// Columns is the width of w if it is a terminal, else 0.
func Columns(w io.Writer) int {
	file, ok := w.(*os.File)
	if !ok {
		return 0
	}
	if _, _, err := windowSize(file); err != nil {
		return 0
	}
	width, _ := terminal{file}.size()
	return width
}
