package logging

import (
	"errors"
	"log/slog"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Logging is the concern. It is safe for concurrent use.
type Logging struct {
	logger  *slog.Logger
	level   func(codes.Code) slog.Level
	highest slog.Level // no line is above it
}

// Option changes what [New] makes.
type Option func(*Logging)

// WithLogger sets where the lines go. Default: what [slog.Default] is when [New]
// is called.
func WithLogger(logger *slog.Logger) Option {
	return func(l *Logging) { l.logger = logger }
}

// WithLevel sets the level of a line by the code of the call. It is asked for
// each call and must be fast. Default: [Level].
func WithLevel(level func(codes.Code) slog.Level) Option {
	return func(l *Logging) { l.level = level }
}

// New makes the concern. A nil logger and a nil level are errors.
func New(opts ...Option) (*Logging, error) {
	l := &Logging{logger: slog.Default(), level: Level}
	for _, opt := range opts {
		opt(l)
	}
	if l.logger == nil {
		return nil, errors.New("logging: WithLogger(nil): give a logger, or leave the concern out for no lines")
	}
	if l.level == nil {
		return nil, errors.New("logging: WithLevel(nil): leave the option out for the default levels")
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
	switch code {
	case codes.OK, codes.Canceled, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists,
		codes.PermissionDenied, codes.ResourceExhausted, codes.FailedPrecondition,
		codes.Aborted, codes.OutOfRange, codes.Unauthenticated:
		return slog.LevelDebug
	default:
		return slog.LevelWarn
	}
}
