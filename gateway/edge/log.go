package edge

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/meshlite-go/meshlite/internal/lines"
)

const (
	defaultLines = 100
	maxText      = 512 // of a text that the other end writes, in bytes
	maxTraceID   = 64
)

// served is a request when it is over.
type served struct {
	ctx            context.Context
	record         *record
	request        *http.Request
	route          string
	status         int // 0 if it was aborted before its header
	start          time.Time
	duration       time.Duration
	sent, received int64 // bytes of the bodies
	traceID        string
}

// class is who is responsible for how it went: "ok", "client" or "server".
func (s *served) class() string {
	switch {
	case s.record.panicked && s.ctx.Err() == nil:
		return "server"
	case s.ctx.Err() == context.Canceled && (s.status == 0 || s.status >= 400):
		return "client" // has left
	case s.status == 0 || s.status >= 500:
		return "server"
	case s.status >= 400:
		return "client"
	default:
		return "ok"
	}
}

// accessLog writes a line for each request, as package logging does for calls: "request" with
//
//   - side ("edge"), method, route, code (the status), duration
//   - peer: the address of the caller, behind trusted proxies too
//   - caller: the identity of a client certificate; the subject of a token if it is to be logged
//   - limit, limit_result: the limit that refused, or would have
//   - refused: why the request did not reach its handler
//   - chain_route, arm: where the discovery chain of a plain HTTP service has sent it
//   - sent, received: the bytes of the bodies
//   - trace_id, if sampled
//
// The level is warn for a failure of the gateway or of a backend, and debug for the rest, as
// callers must not be able to fill the log.
type accessLog struct {
	logger  *slog.Logger
	limit   *lines.Limit
	path    bool
	subject bool
}

func newAccessLog(c *Config) *accessLog {
	return &accessLog{cmp.Or(c.Logger, slog.Default()), lines.New(cmp.Or(c.LogLines, defaultLines)), c.LogPath, c.LogSubject}
}

func (l *accessLog) write(s *served) {
	level := slog.LevelDebug
	if s.class() == "server" {
		level = slog.LevelWarn
	}
	enabled := l.logger.Enabled(s.ctx, level)
	if !enabled && !l.limit.Owes() {
		return
	}
	now := s.start.Add(s.duration)
	l.settle(s.ctx, now)
	if enabled && l.limit.Admit(level, now) {
		l.logger.LogAttrs(s.ctx, level, "request", l.line(s)...)
	}
}

func (l *accessLog) settle(ctx context.Context, now time.Time) {
	l.limit.Settle(now, func(level slog.Level, n uint64) {
		l.logger.LogAttrs(ctx, level, "requests left out of the log", slog.String("side", "edge"), slog.Uint64("count", n))
	})
}

func (l *accessLog) line(s *served) []slog.Attr {
	rec := s.record
	attrs := make([]slog.Attr, 0, 16)
	attrs = append(attrs,
		slog.String("side", "edge"),
		slog.String("method", methodName(s.request.Method)),
		slog.String("route", cut(s.route)),
		slog.Int("code", s.status),
		slog.Duration("duration", s.duration))
	if l.path {
		attrs = appendText(attrs, "path", s.request.URL.EscapedPath())
	}
	if rec.caller.Address.IsValid() {
		attrs = append(attrs, slog.String("peer", rec.caller.Address.String()))
	}
	identity := rec.certificate
	if identity == "" && l.subject {
		identity = rec.caller.Subject
	}
	attrs = appendText(attrs, "caller", identity)
	if rec.limit != "" {
		attrs = append(attrs, slog.String("limit", cut(rec.limit)), slog.String("limit_result", rec.limitResult.String()))
	}
	attrs = appendText(attrs, "refused", rec.refused)
	attrs = appendText(attrs, "chain_route", rec.arm[0])
	attrs = appendText(attrs, "arm", rec.arm[1])
	attrs = append(attrs, slog.Int64("sent", s.sent), slog.Int64("received", s.received))
	return appendText(attrs, "trace_id", s.traceID)
}

// panicked writes the stack, which the caller does not get.
func (l *accessLog) panicked(r *http.Request, failure any, stack []byte) {
	now := time.Now()
	l.settle(r.Context(), now)
	if l.limit.Admit(slog.LevelError, now) {
		l.logger.LogAttrs(r.Context(), slog.LevelError, "a handler panicked", slog.String("side", "edge"),
			slog.String("method", methodName(r.Method)), slog.String("panic", cut(fmt.Sprint(failure))), slog.String("stack", string(stack)))
	}
}

func appendText(attrs []slog.Attr, key, text string) []slog.Attr {
	if text == "" {
		return attrs
	}
	return append(attrs, slog.String(key, cut(text)))
}

func cut(text string) string {
	if len(text) > maxText {
		text = text[:maxText] + "..."
	}
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "?")
	}
	return text
}
