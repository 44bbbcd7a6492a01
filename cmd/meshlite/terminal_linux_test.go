package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// console is a terminal with the command in its foreground.
type console struct {
	keyboard *os.File // and what it shows is read from it
	shown    buffer
	ended    chan error
}

// onTerminal runs the command in a terminal of so many columns.
func onTerminal(t *testing.T, columns uint16, args ...string) *console {
	t.Helper()
	keyboard, screen := openTerminal(t, columns)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "BE_THE_COMMAND=1", "TERM=xterm")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	screen.Close()
	c := &console{keyboard: keyboard, ended: make(chan error, 1)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		var text [4096]byte
		for {
			n, err := keyboard.Read(text[:]) // fails when the command has ended
			_, _ = c.shown.Write(text[:n])
			if err != nil {
				return
			}
		}
	}()
	ended := make(chan struct{})
	go func() {
		err := cmd.Wait()
		<-read // all that it has shown
		c.ended <- err
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // unless it has ended
		<-ended
	})
	return c
}

// openTerminal is both ends of a pseudo terminal.
func openTerminal(t *testing.T, columns uint16) (keyboard, screen *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there are no pseudo terminals: %v", err)
	}
	t.Cleanup(func() { keyboard.Close() })
	fd := int(keyboard.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return keyboard, screen
}

func (c *console) end(t *testing.T) (shown string) {
	t.Helper()
	select {
	case err := <-c.ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Errorf("it does not end")
	}
	return c.shown.String()
}

// q leaves top, as it does top(1), and the terminal is as it was. Other keys do nothing.
func TestQLeavesTop(t *testing.T) {
	page := serveMetrics(t, handled(10, 0, 10))
	c := onTerminal(t, 80, "top", "--client", page)
	eventually(t, func() bool {
		return strings.Contains(c.shown.String(), "a.v1") || strings.Contains(c.shown.String(), "SERVICE")
	})
	lines := func() bool {
		settings, err := unix.IoctlGetTermios(int(c.keyboard.Fd()), unix.TCGETS)
		return err == nil && settings.Lflag&unix.ICANON != 0 && settings.Lflag&unix.ECHO != 0
	}
	eventually(t, func() bool { return !lines() })
	if _, err := c.keyboard.WriteString("x\x1b[Aq"); err != nil {
		t.Fatal(err)
	}
	shown := c.end(t)
	if !strings.HasSuffix(shown, "\x1b[?25h") {
		t.Errorf("the cursor is not given back: %q", shown)
	}
	if !lines() {
		t.Error("the terminal is not as it was")
	}
}

// A table fits the terminal, and says what it has no room for.
func TestTablesFitTheTerminal(t *testing.T) {
	agent := openAgent(t)
	for i := range 3 {
		enlist(t, agent, "catalog", fmt.Sprintf("catalog-of-the-sweet-shop-%d", i), fmt.Sprintf("192.168.100.20%d:18080", i), "passing")
	}
	for columns, omits := range map[uint16]string{40: "NODE", 60: "DC", 80: "", 200: ""} {
		shown := onTerminal(t, columns, "endpoints", "catalog").end(t)
		if omits == "" && strings.Contains(shown, "no room") || omits != "" && !strings.Contains(shown, "(no room for") {
			t.Errorf("in %d columns it shows\n%s", columns, shown)
		}
		for line := range strings.Lines(shown) {
			line = strings.TrimRight(line, "\r\n")
			if n := utf8.RuneCountInString(line); n > int(columns) {
				t.Errorf("a line of %d in %d columns: %q", n, columns, line)
			}
			if strings.Contains(line, "\x1b") {
				t.Errorf("an escape code: %q", line)
			}
		}
		if strings.Count(shown, "192.168.100.20") != 3 || !strings.Contains(shown, omits) {
			t.Errorf("in %d columns it shows\n%s", columns, shown)
		}
	}
}
