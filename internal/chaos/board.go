package chaos

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/internal/screen"
)

// board shows events as they come, and the calls of the current row. It is safe for
// concurrent use.
type board struct {
	begin  time.Time
	screen *screen.Screen // nil where out is no terminal

	mu    sync.Mutex
	out   io.Writer
	row   string
	tally *tally // nil before the first row
}

func newBoard(out io.Writer) *board {
	b := &board{begin: time.Now(), out: out}
	b.screen, _ = screen.Of(out)
	return b
}

func (b *board) close() {
	if b.screen != nil {
		b.screen.Close()
	}
}

// follow shows the calls of a row from now on.
func (b *board) follow(row string, t *tally) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.row, b.tally = row, t
}

// say reports an event.
func (b *board) say(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := fmt.Sprintf("%5.1fs  %s", time.Since(b.begin).Seconds(), fmt.Sprintf(format, args...))
	if b.screen != nil {
		b.screen.Event(text)
		return
	}
	fmt.Fprintln(b.out, text) // a closed reader must not end the run
}

// watch shows the calls until ctx ends: all the time on a terminal, else a line a
// second.
func (b *board) watch(ctx context.Context) {
	every := time.Second
	if b.screen != nil {
		every = 200 * time.Millisecond
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			b.show()
		}
	}
}

func (b *board) show() {
	line := b.status()
	switch {
	case line == "":
	case b.screen != nil:
		b.screen.Show([]string{"", "  " + line, ""})
	default:
		b.say("  %s", line)
	}
}

// status is the row that is played, in a line.
func (b *board) status() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tally == nil {
		return ""
	}
	f := b.tally.read()
	return fmt.Sprintf("%-20s  failed %d of %d calls  worst %.0f ms", b.row, f.failed, f.calls, inMillis(f.worst))
}
