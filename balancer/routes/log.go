package routes

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// maxLogRate is how many lines a router logs in a second.
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

// logChanges notes what has changed of targets of arms. The caller holds p.mu.
func (p *policy) logChanges() {
	if p.plan == nil {
		return
	}
	now := map[*leaf]string{}
	for _, r := range p.plan.routes {
		for i := range r.arms {
			a := &r.arms[i]
			if a.Weight <= 0 || len(a.ways) == 0 || p.byID[a.ways[0].Target] == nil {
				continue
			}
			l, shares := p.byID[a.ways[0].Target], a.shares(p.health)
			switch {
			case len(shares) == 0:
				now[l] = empty
			case slices.ContainsFunc(shares, func(s share) bool { return s.way != a.ways[0] }):
				now[l] = failingOver
			case now[l] == "":
				now[l] = recovered
			}
		}
	}
	for l, status := range now {
		if status != l.status && (status != recovered || l.status != "") {
			level := slog.LevelWarn
			if status == recovered {
				level = slog.LevelInfo
			}
			p.lines = append(p.lines, line{level, status, l.name, l.health})
		}
		l.status = status
	}
}

// unlock unlocks p.mu and logs the lines since: a slow handler must not block picks.
func (p *policy) unlock() {
	lines, router := p.lines, p.router
	p.lines = nil
	p.mu.Unlock()
	if len(lines) == 0 {
		return
	}
	ctx, now := context.Background(), time.Now()
	router.limit.Settle(now, func(level slog.Level, n uint64) {
		router.log.LogAttrs(ctx, level, "changes of routes left out of the log", slog.Uint64("count", n))
	})
	for _, l := range lines {
		if router.limit.Admit(l.level, now) {
			router.log.LogAttrs(ctx, l.level, l.message, slog.String("target", l.leaf),
				slog.Int("usable", l.health.usable), slog.Int("known", l.health.known))
		}
	}
}
