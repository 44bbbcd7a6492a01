package logging

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/lines"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// Logging is the concern. It is safe for concurrent use.
type Logging struct {
	logger *slog.Logger
	level  func(codes.Code) slog.Level
	text   func(codes.Code) bool
	trace  func(context.Context) (traceID string, sampled bool)
	most   int // lines in a second

	callers *caller.Callers

	unbounded bool // calls without a deadline are warned of
	warned    rpc.Table[string, *atomic.Bool]

	highest slog.Level // no line is above it
	limits  limits
}

// Option changes what [New] makes.
type Option func(*Logging)

// WithLogger sets where the lines go. Default, and nil: what [slog.Default] is when [New]
// is called.
func WithLogger(logger *slog.Logger) Option {
	return func(l *Logging) { l.logger = cmp.Or(logger, slog.Default()) }
}

// WithLevel sets the level of a line by the code of the call. It is called for
// each call and must be fast. Default: [Level].
func WithLevel(level func(codes.Code) slog.Level) Option {
	return func(l *Logging) { l.level = level }
}

// WithErrorText sets of which codes the message of the status is logged. Default: of those
// that [Level] warns of. A service whose own failures quote what is personal logs none.
func WithErrorText(logged func(codes.Code) bool) Option {
	return func(l *Logging) { l.text = logged }
}

// WithLimit sets how many lines are written in a second for each method, side and level.
// Default: 100, as zap has it for production; [math.MaxInt] is all.
func WithLimit(lines int) Option {
	return func(l *Logging) { l.most = lines }
}

// WithTraceFromContext sets the function that returns the trace id of sampled calls, called
// when a line is written. Nil, the default, is none.
func WithTraceFromContext(trace func(context.Context) (traceID string, sampled bool)) Option {
	return func(l *Logging) { l.trace = trace }
}

// WithCallers says who calls, for the field "caller" of a server's lines. Default, and nil:
// who the peer's verified certificate proves.
func WithCallers(callers *caller.Callers) Option {
	return func(l *Logging) { l.callers = callers }
}

// WithDeadlineWarnings warns, once for each method, of unary calls of a client that have no
// deadline, neither of their context nor of their policy: an instance that never answers
// would hold them for ever. Streams may go on without.
func WithDeadlineWarnings() Option {
	return func(l *Logging) { l.unbounded = true }
}

// New makes the concern. Its errors are options that have no meaning.
func New(opts ...Option) (*Logging, error) {
	l := &Logging{logger: slog.Default(), level: Level, text: failure, most: 100}
	for _, opt := range opts {
		opt(l)
	}
	switch {
	case l.level == nil:
		return nil, errors.New("logging: WithLevel(nil): leave the option out for the default levels")
	case l.text == nil:
		return nil, errors.New("logging: WithErrorText(nil): leave the option out for the messages of failures")
	case l.most < 1:
		return nil, fmt.Errorf("logging: WithLimit(%d): write 1 or more, or leave the concern out for no lines", l.most)
	}
	l.limits = limits{own: rpc.Table[limited, *lines.Limit]{Max: maxLimits}, others: lines.New(l.most)}
	l.highest = l.level(codes.OK)
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		l.highest = max(l.highest, l.level(code))
	}
	return l, nil
}

// Stage is [interceptors.Logging].
func (l *Logging) Stage() interceptors.Stage { return interceptors.Logging }

// UnaryClient logs calls.
func (l *Logging) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	return l.part(meta).call
}

// StreamClient logs streams when they end.
func (l *Logging) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	return l.part(meta).open
}

// UnaryServer logs calls.
func (l *Logging) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	return l.part(meta).serve
}

// StreamServer logs streams when they end.
func (l *Logging) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	return l.part(meta).serveStream
}

// UnaryClientInterceptor is for use without a chain.
func (l *Logging) UnaryClientInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return l.alone(interceptors.Client, method).call(ctx, method, req, reply, cc, invoker, opts...)
	}
}

// StreamClientInterceptor is for use without a chain.
func (l *Logging) StreamClientInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return l.alone(interceptors.Client, method).open(ctx, desc, cc, method, streamer, opts...)
	}
}

// UnaryServerInterceptor is for use without a chain.
func (l *Logging) UnaryServerInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return l.alone(interceptors.Server, info.FullMethod).serve(ctx, req, info, handler)
	}
}

// StreamServerInterceptor is for use without a chain.
func (l *Logging) StreamServerInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		method := info.FullMethod
		if srv == nil {
			method = "other" // the peer has made it up: all of them have one limit
		}
		return l.alone(interceptors.Server, method).serveStream(srv, stream, info, handler)
	}
}

// maxLimits caps the methods that have a limit of their own. The others share one.
const maxLimits = 1024

// limits are those of lines, by method. They outlive changes of the policy.
type limits struct {
	own    rpc.Table[limited, *lines.Limit]
	others *lines.Limit
}

type limited struct {
	side   interceptors.Side
	method string
}

func (l *limits) of(side interceptors.Side, method string, most int) *lines.Limit {
	if len(method) <= rpc.MaxName {
		if limit, ok := l.own.Of(limited{side, method}, func() *lines.Limit { return lines.New(most) }); ok {
			return limit
		}
	}
	return l.others
}
