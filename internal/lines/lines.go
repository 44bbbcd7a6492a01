// Package lines limits the rate of log lines: it admits the first lines of each second and
// counts the others, to be reported in one line.
//
//	limit := lines.New(100)
//	limit.Settle(now, func(level slog.Level, n uint64) { log.Log(ctx, level, "lines left out", "count", n) })
//	if limit.Admit(slog.LevelWarn, now) {
//		log.Warn("...")
//	}
//
// It needs no goroutine: the first line after the second is over reports what was left out.
package lines

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Limit bounds lines of one kind, each level by itself, so that debug lines do not displace
// failures. It is safe for concurrent use.
type Limit struct {
	most int // lines in a second
	born time.Time
	due  atomic.Int64 // when there is something to report, since born; 0 is never

	mu      sync.Mutex
	windows [4]window // debug, info, warn, error
}

// window is a second of lines of one level.
type window struct {
	ends    time.Duration // since born
	lines   int
	leftOut uint64
	level   slog.Level // of the last one that was left out
}

// New makes a limit of most lines in a second, at least 1.
func New(most int) *Limit { return &Limit{most: most, born: time.Now()} }

// Admit reports whether a line of level may be written at now, and counts it if not.
func (l *Limit) Admit(level slog.Level, now time.Time) bool {
	at := now.Sub(l.born)
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.of(level)
	if at >= w.ends {
		w.ends, w.lines = at+time.Second, 0
	}
	if w.lines < l.most {
		w.lines++
		return true
	}
	w.leftOut++
	w.level = level
	if due := l.due.Load(); due == 0 || int64(w.ends) < due {
		l.due.Store(int64(w.ends))
	}
	return false
}

func (l *Limit) of(level slog.Level) *window {
	switch {
	case level < slog.LevelInfo:
		return &l.windows[0]
	case level < slog.LevelWarn:
		return &l.windows[1]
	case level < slog.LevelError:
		return &l.windows[2]
	default:
		return &l.windows[3]
	}
}

// Owes reports whether lines were left out and not reported yet. It is quick.
func (l *Limit) Owes() bool { return l.due.Load() != 0 }

// Settle calls report with the number of lines left out, for each level, of seconds that are
// over by now. Each line is reported once.
func (l *Limit) Settle(now time.Time, report func(level slog.Level, n uint64)) {
	at := now.Sub(l.born)
	if due := l.due.Load(); due == 0 || int64(at) < due {
		return
	}
	for _, w := range l.take(at) {
		if w.leftOut > 0 {
			report(w.level, w.leftOut)
		}
	}
}

// take returns what is to be reported, and resets it.
func (l *Limit) take(at time.Duration) (over [4]window) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var due int64
	for i := range l.windows {
		switch w := &l.windows[i]; {
		case w.leftOut == 0:
		case at >= w.ends:
			over[i] = *w
			w.leftOut = 0
		case due == 0 || int64(w.ends) < due:
			due = int64(w.ends)
		}
	}
	l.due.Store(due)
	return over
}
