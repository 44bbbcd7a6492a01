package screen

import (
	"context"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// Resized is the signal that a terminal's window has another size, which Windows never sends.
const Resized = syscall.Signal(28)

// windowSize is the size of a console's window, or an error if file is none.
func windowSize(file *os.File) (width, height int, err error) {
	var info windows.ConsoleScreenBufferInfo
	if err := windows.GetConsoleScreenBufferInfo(windows.Handle(file.Fd()), &info); err != nil {
		return 0, 0, err
	}
	return int(info.Window.Right-info.Window.Left) + 1, int(info.Window.Bottom-info.Window.Top) + 1, nil
}

// Keys does nothing on Windows: a console gives whole lines.
func Keys(context.Context, io.Reader, func(key byte)) (stop func()) { return func() {} }
