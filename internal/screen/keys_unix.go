//go:build unix

package screen

import (
	"context"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Resized is the signal that a terminal's window has another size.
const Resized = syscall.SIGWINCH

// windowSize is the size of a terminal, or an error if file is none.
func windowSize(file *os.File) (width, height int, err error) {
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0, err
	}
	return int(size.Col), int(size.Row), nil
}

// keyWait is how long a look at the terminal waits for a key, and so how late its
// goroutine ends.
const keyWait = 100 * time.Millisecond

// Keys calls pressed with each byte that is typed at the terminal in, until ctx ends or
// stop is called, which waits for it. Typed text is then neither shown nor gathered into
// lines; signals such as ctrl-C stay. It does nothing unless in is a terminal and we are
// in its foreground.
func Keys(ctx context.Context, in io.Reader, pressed func(key byte)) (stop func()) {
	file, ok := in.(*os.File)
	if !ok {
		return func() {}
	}
	fd := int(file.Fd())
	before, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil || !foreground(fd) {
		return func() {}
	}
	if unlined(fd) != nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		readKeys(ctx, fd, pressed)
	}()
	return func() {
		cancel()
		<-done
		if foreground(fd) { // else it is another's by now, or gone
			_ = unix.IoctlSetTermios(fd, setTermios, before)
		}
	}
}

// unlined makes the terminal give keys as they are typed.
func unlined(fd int) error {
	settings, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil || settings.Lflag&unix.ICANON == 0 {
		return err
	}
	settings.Lflag &^= unix.ICANON | unix.ECHO
	settings.Cc[unix.VMIN], settings.Cc[unix.VTIME] = 0, 0
	return unix.IoctlSetTermios(fd, setTermios, settings)
}

func readKeys(ctx context.Context, fd int, pressed func(key byte)) {
	var buffer [64]byte
	for ctx.Err() == nil {
		// In the background a read would stop us. Back from there, the shell has set the
		// terminal to lines again.
		if !foreground(fd) || unlined(fd) != nil {
			wait(ctx)
			continue
		}
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(ready, int(keyWait.Milliseconds())); n < 1 {
			continue
		}
		n, err := unix.Read(fd, buffer[:])
		if n == 0 || err != nil { // as where the terminal is gone
			wait(ctx)
		}
		for _, key := range buffer[:max(n, 0)] {
			pressed(key)
		}
	}
}

func wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(keyWait):
	}
}

// foreground reports whether we may change the terminal and read from it: a shell stops
// those who do so in its background.
func foreground(fd int) bool {
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
