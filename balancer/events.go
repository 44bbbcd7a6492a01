package balancer

import (
	"context"
	"log/slog"
	"time"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// maxLines is how many lines a table logs in a second.
const maxLines = 20

// Why an endpoint is back.
const (
	probed      = "probe"       // the call that probed it was answered
	reconnected = "reconnected" // it had lost all connections and has one again
	tooManyOut  = "too_many_out"
)

// event is one of which the log is told.
type event struct {
	instance attempt.Instance
	what     string
	reason   string
	time     slog.Attr
	out      int // endpoints that are ejected now
	listed   int // of so many
}

// note keeps an event until the lock is given back. The caller holds t.mu.
func (t *Table) note(e *Endpoint, what, reason string, time slog.Attr) {
	if t.log != nil {
		t.events = append(t.events, event{e.Instance, what, reason, time, t.out, t.listed})
	}
}

// unlock gives t.mu back and logs what happened under it: a log that is slow holds up
// nobody's picks.
func (t *Table) unlock() {
	events := t.events
	t.events = nil
	t.mu.Unlock()
	if t.log == nil || len(events) == 0 && !t.limit.Owes() {
		return
	}
	ctx, now := context.Background(), time.Now()
	if !t.log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	t.limit.Settle(now, func(level slog.Level, n uint64) {
		t.log.LogAttrs(ctx, level, "ejections left out of the log", slog.Uint64("count", n))
	})
	for _, e := range events {
		if t.limit.Admit(slog.LevelInfo, now) {
			t.log.LogAttrs(ctx, slog.LevelInfo, e.what,
				slog.String("instance", e.instance.ID), slog.String("address", e.instance.Address),
				slog.String("reason", e.reason), e.time, slog.Int("ejected", e.out), slog.Int("endpoints", e.listed))
		}
	}
}
