package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/internal/screen"
)

// view shows the story while it runs. It is safe for concurrent use.
type view interface {
	event(text string)
	show(s scene)
	every() time.Duration // how often to show
	close()
}

// newView is a live view on a terminal and plain lines elsewhere.
func newView(w io.Writer) view {
	if s, ok := screen.Of(w); ok {
		return &liveView{s}
	}
	return &plainView{out: w}
}

// watch shows the scene until ctx ends.
func watch(ctx context.Context, v view, o *observer) {
	ticker := time.NewTicker(v.every())
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			v.show(o.look())
		}
	}
}

// plainView writes a line a second, for files and for CI.
type plainView struct {
	mu  sync.Mutex
	out io.Writer
}

func (*plainView) every() time.Duration { return time.Second }
func (*plainView) close()               {}

func (v *plainView) event(text string) { v.line(text) }

func (v *plainView) show(s scene) {
	v.line(fmt.Sprintf("%5.1fs  %-7s  %4.0f calls/s  p50 %s  p99 %s  failed %d  refused %d  hits %.2f  %s",
		s.since.Seconds(), s.phase, s.rate, millis(s.p50), millis(s.p99), s.failed, s.refused, s.cache.ratio(), shareLine(s.actors)))
}

func (v *plainView) line(text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	fmt.Fprintln(v.out, text) // a reader that is gone must not end the story
}

// shareLine is what part of a service's calls each living instance has handled.
func shareLine(actors []actor) string {
	var parts []string
	for _, a := range actors {
		if a.fate == "" && a.part < 1 {
			parts = append(parts, fmt.Sprintf("%s %.0f%%", a.name, 100*a.part))
		}
	}
	return strings.Join(parts, " ")
}
