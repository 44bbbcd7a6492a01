package routes

import (
	"context"
	"log/slog"
	"time"

	"github.com/meshlite-go/meshlite/internal/lines"
)

// maxLogRate is how many lines a router or a set logs in a second.
const maxLogRate = 20

// line is a change of a target, to be logged.
type line struct {
	level   slog.Level
	message string
	leaf    string
	health  health
}

// The states of a target that are logged.
const (
	failingOver = "calls of a target fail over: too few of its instances are usable"
	empty       = "no instance of a target or its failover is usable: the other arms of its routes get its calls"
	recovered   = "a target has all its calls again"
)

// change sets the status of a target. It returns the line about it, if it is worth one.
func (t *tracked) change(now string) []line {
	before := t.status
	t.status = now
	if now == before || now == recovered && before == "" {
		return nil
	}
	level := slog.LevelWarn
	if now == recovered {
		level = slog.LevelInfo
	}
	return []line{{level, now, t.name, t.health}}
}

// logChanges notes what has changed of targets of arms. The caller holds p.mu.
func (p *policy) logChanges() {
	if p.plan == nil {
		return
	}
	for id, now := range p.plan.conditions(p.health) {
		if l := p.byID[id]; l != nil {
			p.lines = append(p.lines, l.change(now)...)
		}
	}
}

// unlock unlocks p.mu and logs the lines since: a slow handler must not block picks.
func (p *policy) unlock() {
	lines, router := p.lines, p.router
	p.lines = nil
	p.mu.Unlock()
	if len(lines) > 0 {
		router.report(lines)
	}
}

// reporter logs within a limit.
type reporter struct {
	settings
	limit *lines.Limit
}

func newReporter(s settings) reporter { return reporter{s, lines.New(maxLogRate)} }

func (r *reporter) report(all []line) {
	ctx, now := context.Background(), time.Now()
	r.limit.Settle(now, func(level slog.Level, n uint64) {
		r.log.LogAttrs(ctx, level, "changes of routes left out of the log", slog.Uint64("count", n))
	})
	for _, l := range all {
		if r.limit.Admit(l.level, now) {
			r.log.LogAttrs(ctx, l.level, l.message, slog.String("target", l.leaf),
				slog.Int("usable", l.health.usable), slog.Int("known", l.health.known))
		}
	}
}
