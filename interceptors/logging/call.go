package logging

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/lines"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// part is the concern's part in the calls of one method.
type part struct {
	*Logging
	side    interceptors.Side
	name    string       // of the method to other concerns, "other" if a peer made it up
	limit   *lines.Limit // nil until the first call without a chain
	bounded bool         // its policy has a timeout, or no calls are warned of
	listens bool         // calls may fail in a way that only the outcome explains
}

func (l *Logging) part(meta *interceptors.CallMeta) part {
	p := l.alone(meta.Side, meta.FullMethod)
	p = p.limited()
	p.bounded = !l.unbounded || meta.Side == interceptors.Server || meta.Timeout() > 0
	p.listens = meta.Side == interceptors.Server && meta.Policy.GetConcurrency() != nil
	return p
}

func (l *Logging) alone(side interceptors.Side, method string) part {
	return part{Logging: l, side: side, name: method, bounded: true}
}

// limited returns p with its limit, which is not looked up while all levels are off.
func (p part) limited() part {
	if p.limit == nil {
		p.limit = p.limits.of(p.side, p.name, p.most)
	}
	return p
}

// call is the state of one call.
type call struct {
	ctx      context.Context // that it came with
	method   string
	unserved bool // no service here has the method
	start    time.Time
	record   *attempt.Record       // of a client
	outcome  *interceptors.Outcome // nil if logging does not listen
	messages *messages             // of a stream
}

// off reports whether no call of ctx can have a line.
func (p part) off(ctx context.Context) bool { return !p.logger.Enabled(ctx, p.highest) }

// listen starts to collect the events of a call if its line can need them.
func (p part) listen(c *call, ctx context.Context) context.Context {
	if p.listens || p.logger.Enabled(ctx, p.level(codes.OK)) {
		ctx, c.outcome = interceptors.Listen(ctx, p.side, p.name)
	}
	return ctx
}

func (p part) call(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	if p.off(ctx) {
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	if !p.bounded {
		p.warn(ctx)
	}
	p = p.limited()
	c := call{ctx: ctx, method: method, start: time.Now()}
	ctx, c.record = attempt.FromOrNew(p.listen(&c, ctx), attempt.Unary) // a line of a failure names the instance
	err = rpc.ErrPanic
	defer func() { p.end(&c, err) }()
	err = invoker(ctx, method, req, reply, cc, opts...)
	return err
}

func (p part) serve(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	if p.off(ctx) {
		return handler(ctx, req)
	}
	p = p.limited()
	c := call{ctx: ctx, method: info.FullMethod, start: time.Now()}
	ctx = p.listen(&c, ctx)
	err = rpc.ErrPanic
	defer func() { p.end(&c, err) }()
	reply, err = handler(ctx, req)
	return reply, err
}

// warn writes the one line about calls of a method without a deadline.
func (p part) warn(ctx context.Context) {
	if _, ok := ctx.Deadline(); ok {
		return
	}
	warned, ok := p.warned.Of(p.name, func() *atomic.Bool { return &atomic.Bool{} })
	if ok && !warned.Swap(true) {
		p.logger.LogAttrs(ctx, slog.LevelWarn, "a call has no deadline: an instance that never answers holds it for ever: set a timeout in the policy of the method, or call it with context.WithTimeout",
			slog.String("method", cut(p.name)))
	}
}

// maxText bounds a text that the other end writes, and maxTraceID a trace id, in bytes.
const (
	maxText    = 512
	maxTraceID = 64
)

// end writes the line of a call, if it has one.
func (p part) end(c *call, err error) {
	s := rpc.Status(err)
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

// levelOf is the level of the code, lower for what is no failure of the service: a method
// that no service here has, which any scanner can call, a call that the caller has
// cancelled, and a failure that is logged already.
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
	attrs := make([]slog.Attr, 0, 16)
	attrs = append(attrs,
		slog.String("side", p.side.String()),
		slog.String("method", cut(c.method)),
		slog.String("code", s.Code().String()),
		slog.Duration("duration", now.Sub(c.start)))
	outcome := p.outcomeOf(c)
	cached, verdict := outcome.Cache(), outcome.Limit()
	attrs = append(attrs, p.otherEnd(c, cached != nil && cached.Served())...)
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
	if record := outcome.Record(); record != nil {
		attrs = append(attrs, facts(record)...)
	}
	attrs = appendText(attrs, "trace_id", p.traceID(c.ctx))
	if p.text(s.Code()) {
		attrs = appendText(attrs, "error", s.Message())
	}
	return attrs
}

// Level is debug for OK and for failures that the caller caused, since callers must not be
// able to fill the log, and warn for the rest.
func Level(code codes.Code) slog.Level {
	if failure(code) {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// failure reports whether a call with code failed through no fault of its caller.
func failure(code codes.Code) bool {
	switch code {
	case codes.OK, codes.Canceled, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists,
		codes.PermissionDenied, codes.ResourceExhausted, codes.FailedPrecondition,
		codes.Aborted, codes.OutOfRange, codes.Unauthenticated:
		return false
	default:
		return true
	}
}

// otherEnd names the caller, on a server, or the instance that was called.
func (l *Logging) otherEnd(c *call, cached bool) (attrs []slog.Attr) {
	if c.record == nil {
		if from, ok := peer.FromContext(c.ctx); ok && from.Addr != nil {
			attrs = appendText(attrs, "peer", from.Addr.String())
		}
		return appendText(attrs, "caller", safely(func() string { return l.callers.LogName(c.ctx) }))
	}
	last := c.record.Latest()
	if at := last.Route(); at != nil {
		attrs = appendText(attrs, "route", at.Name)
		attrs = appendText(attrs, "arm", at.Arm)
	}
	if instance := last.Picked(); instance != nil {
		attrs = appendText(attrs, "instance", instance.ID)
		attrs = appendText(attrs, "address", instance.Address)
	} else if cached {
		return attrs // there was no attempt
	}
	return append(attrs, slog.Int("attempts", last.Number()))
}

// outcomeOf is what concerns further in published, to this one or to another that listens: nil if
// none does.
func (p part) outcomeOf(c *call) *interceptors.Outcome {
	if c.outcome != nil {
		return c.outcome
	}
	return interceptors.OutcomeOf(c.ctx, &interceptors.CallMeta{Side: p.side, FullMethod: p.name})
}

// facts are what else the record of a call says.
func facts(record *hop.Record) (attrs []slog.Attr) {
	record.Note(func(h *hop.Hop) {
		for name, fact := range h.Facts() {
			attrs = appendText(attrs, cut(name), fact)
		}
	})
	return attrs
}

// traceID is that of a sampled call.
func (l *Logging) traceID(ctx context.Context) string {
	if l.trace == nil {
		return ""
	}
	return safely(func() string {
		id, sampled := l.trace(ctx)
		if !sampled || len(id) > maxTraceID || !utf8.ValidString(id) {
			return ""
		}
		return id
	})
}

// safely calls a function of the user's, "" if it panics: logging stands outside of
// recovery, so that a panic here would end the process.
func safely(f func() string) (text string) {
	defer func() {
		if recover() != nil {
			text = ""
		}
	}()
	return f()
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
