package logging

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
)

// maxText bounds what is kept of a text that the other end writes, and maxTraceID that of
// a trace.
const (
	maxText    = 512
	maxTraceID = 64
)

// end writes the line of a call, if it has one.
func (p part) end(c *call, err error) {
	s := statusOf(err)
	level := p.levelOf(c, s.Code(), err)
	enabled := p.logger.Enabled(c.ctx, level)
	if !enabled && !p.limit.Owes() {
		return
	}
	now := time.Now()
	p.limit.Settle(now, func(level slog.Level, n uint64) {
		p.logger.LogAttrs(c.ctx, level, "calls left out of the log",
			slog.String("side", p.side.String()), slog.String("method", cut(p.name)), slog.Uint64("count", n))
	})
	if enabled && p.limit.Admit(level, now) {
		p.logger.LogAttrs(c.ctx, level, "call", p.line(c, s, now)...)
	}
}

// statusOf is the status that gRPC puts on the wire for err.
func statusOf(err error) *status.Status {
	if s, ok := status.FromError(err); ok {
		return s
	}
	return status.FromContextError(err)
}

// levelOf is the level by the code, and lower for what is no failure whatever its code: a
// method that nobody here serves, which any scanner can ask for, a call that the caller
// has cancelled, and a failure of which the log tells already.
func (p part) levelOf(c *call, code codes.Code, err error) slog.Level {
	level := p.level(code)
	switch {
	case code == codes.OK:
		return level
	case code == codes.Unimplemented && c.unserved, interceptors.IsLogged(err):
		return min(level, slog.LevelDebug)
	case errors.Is(c.ctx.Err(), context.Canceled):
		return min(level, p.level(codes.Canceled))
	default:
		return level
	}
}

func (p part) line(c *call, s *status.Status, now time.Time) []slog.Attr {
	attrs := make([]slog.Attr, 0, 14)
	attrs = append(attrs,
		slog.String("side", p.side.String()),
		slog.String("method", cut(c.method)),
		slog.String("code", s.Code().String()),
		slog.Duration("duration", now.Sub(c.start)))
	cached, verdict := p.events(c)
	attrs = append(attrs, c.otherEnd(cached != nil && cached.Served())...)
	if cached != nil {
		attrs = append(attrs, slog.String("cache", cached.Result()))
	}
	if verdict != nil {
		attrs = appendText(attrs, "limit", verdict.Limit())
		attrs = append(attrs, slog.String("limit_result", verdict.Result()))
	}
	if c.messages != nil {
		attrs = append(attrs, slog.Int64("sent", c.messages.sent.Load()), slog.Int64("received", c.messages.received.Load()))
	}
	attrs = appendText(attrs, "trace_id", p.traceID(c.ctx))
	if p.text(s.Code()) {
		attrs = appendText(attrs, "error", s.Message())
	}
	return attrs
}

// otherEnd names the caller, on a server, or the instance that was called.
func (c *call) otherEnd(cached bool) (attrs []slog.Attr) {
	if c.record == nil {
		if from, ok := peer.FromContext(c.ctx); ok && from.Addr != nil {
			attrs = appendText(attrs, "peer", from.Addr.String())
		}
		return attrs
	}
	last := c.record.Latest()
	if instance := last.Picked(); instance != nil {
		attrs = appendText(attrs, "instance", instance.ID)
		attrs = appendText(attrs, "address", instance.Address)
	} else if cached {
		return attrs // there was no attempt
	}
	return append(attrs, slog.Int("attempts", last.Number()))
}

// events are what concerns further in published, to this one or to another that listens.
func (p part) events(c *call) (interceptors.CacheEvent, interceptors.LimitEvent) {
	outcome := c.outcome
	if outcome == nil {
		outcome = interceptors.OutcomeOf(c.ctx, &interceptors.CallMeta{Side: p.side, FullMethod: p.name})
	}
	if outcome == nil {
		return nil, nil
	}
	return outcome.Cache(), outcome.Limit()
}

// traceID is that of a call that is sampled. Logging stands outside of recovery, so a
// panic here would end the process.
func (l *Logging) traceID(ctx context.Context) (id string) {
	if l.trace == nil {
		return ""
	}
	defer func() {
		if recover() != nil {
			id = ""
		}
	}()
	id, sampled := l.trace(ctx)
	if !sampled || len(id) > maxTraceID || !utf8.ValidString(id) {
		return ""
	}
	return id
}

func appendText(attrs []slog.Attr, key, text string) []slog.Attr {
	if text == "" {
		return attrs
	}
	return append(attrs, slog.String(key, cut(text)))
}

func cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "..."
}
