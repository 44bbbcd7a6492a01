package screen

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// terminal is a file that can be drawn on.
type terminal struct{ file *os.File }

// terminalOf is w as a terminal, if it is one that understands being drawn on.
func terminalOf(w io.Writer) (terminal, bool) {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" || os.Getenv("TERM") == "" {
		return terminal{}, false
	}
	_, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	return terminal{file}, err == nil
}

// size is asked each time, since windows change.
func (t terminal) size() (width, height int) {
	size, err := unix.IoctlGetWinsize(int(t.file.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 || size.Row == 0 {
		return 80, 24
	}
	return int(size.Col), int(size.Row)
}

// Columns is the width of w if it is a terminal, else 0.
func Columns(w io.Writer) int {
	file, ok := w.(*os.File)
	if !ok {
		return 0
	}
	if _, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ); err != nil {
		return 0
	}
	width, _ := terminal{file}.size()
	return width
}
