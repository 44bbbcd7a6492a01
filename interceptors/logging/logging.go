package logging

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Logging is the concern. It is safe for concurrent use.
type Logging struct {
	logger *slog.Logger
	level  func(codes.Code) slog.Level
	text   func(codes.Code) bool
	trace  func(context.Context) (traceID string, sampled bool)
	most   int // lines in a second

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

// WithLevel sets the level of a line by the code of the call. It is asked for
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

// WithTraceFromContext tells the trace of calls that are sampled. It is asked when a line is
// written. Nil, the default, tells none.
func WithTraceFromContext(trace func(context.Context) (traceID string, sampled bool)) Option {
	return func(l *Logging) { l.trace = trace }
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
	l.highest = l.level(codes.OK)
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		l.highest = max(l.highest, l.level(code))
	}
	return l, nil
}

// Place is [interceptors.Logging].
func (l *Logging) Place() interceptors.Place { return interceptors.Logging }

// Level is debug for OK and for what is the caller's affair, since callers must not
// be able to fill the log, and warn for the rest.
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
