package logging

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
)

// maxMessage bounds what is kept of a status message: the other end writes it.
const maxMessage = 512

// called writes the line of a call that this process has made.
func (l *Logging) called(ctx context.Context, method string, record *attempt.Record, start time.Time, err error) {
	code, message := codeOf(err)
	if level := l.level(code); l.logger.Enabled(ctx, level) {
		attrs := line(interceptors.Client, method, code, start, message)
		last := record.Latest()
		if instance := last.Picked(); instance != nil {
			attrs = append(attrs, slog.String("instance", instance.ID), slog.String("address", instance.Address))
		}
		l.logger.LogAttrs(ctx, level, "call", append(attrs, slog.Int("attempts", last.Number()))...)
	}
}

// served writes the line of a call that this process has answered. That nobody here
// serves a method which a handler of unknown services was asked for is the caller's affair.
func (l *Logging) served(ctx context.Context, method string, start time.Time, err error, known bool) {
	code, message := codeOf(err)
	level := l.level(code)
	if code == codes.Unimplemented && !known {
		level = min(level, slog.LevelDebug)
	}
	if l.logger.Enabled(ctx, level) {
		attrs := line(interceptors.Server, method, code, start, message)
		if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
			attrs = append(attrs, slog.String("peer", p.Addr.String()))
		}
		l.logger.LogAttrs(ctx, level, "call", attrs...)
	}
}

// line is what the lines of both sides have.
func line(side interceptors.Side, method string, code codes.Code, start time.Time, message string) []slog.Attr {
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs,
		slog.String("side", side.String()),
		slog.String("method", method),
		slog.String("code", code.String()),
		slog.Duration("duration", time.Since(start)))
	if message != "" {
		attrs = append(attrs, slog.String("error", message))
	}
	return attrs
}

// codeOf is the status that gRPC puts on the wire for err.
func codeOf(err error) (codes.Code, string) {
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err)
	}
	message := s.Message()
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "..."
	}
	return s.Code(), message
}
