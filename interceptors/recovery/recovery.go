package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// maxStack bounds what is kept of a stack: a deep recursion has a long one.
const maxStack = 64 << 10

// Recovery is the concern. It is safe for concurrent use.
type Recovery struct {
	logger   *slog.Logger
	observer Observer
}

// Observer is told of a panic once, in the goroutine that panicked, with the
// first 64 KiB of its stack. It must not panic.
type Observer func(meta *interceptors.CallMeta, value any, stack []byte)

// Option changes what [New] makes.
type Option func(*Recovery)

// WithLogger sets where panics are logged, as errors. Default: [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return func(r *Recovery) { r.logger = logger }
}

// WithObserver sets who is told of panics besides the log, such as a counter.
func WithObserver(observer Observer) Option {
	return func(r *Recovery) { r.observer = observer }
}

// New makes the concern. A nil logger and a nil observer are errors.
func New(opts ...Option) (*Recovery, error) {
	r := &Recovery{logger: slog.Default(), observer: func(*interceptors.CallMeta, any, []byte) {}}
	for _, opt := range opts {
		opt(r)
	}
	if r.logger == nil {
		return nil, errors.New("recovery: WithLogger(nil): give a logger, or slog.New(slog.DiscardHandler) for none")
	}
	if r.observer == nil {
		return nil, errors.New("recovery: WithObserver(nil): leave the option out for no observer")
	}
	return r, nil
}

// Place is [interceptors.Recovery].
func (r *Recovery) Place() interceptors.Place { return interceptors.Recovery }

// recovered tells of a panic and gives what the peer is told.
func (r *Recovery) recovered(ctx context.Context, meta *interceptors.CallMeta, value any) error {
	stack := make([]byte, maxStack)
	stack = stack[:runtime.Stack(stack, false)]
	r.logger.LogAttrs(ctx, slog.LevelError, "panic",
		slog.String("side", meta.Side.String()),
		slog.String("method", meta.FullMethod),
		slog.String("panic", describe(value)),
		slog.String("stack", string(stack)))
	r.observer(meta, value, stack)
	return interceptors.Logged(status.Errorf(codes.Internal, "%s failed: see the log of the %s", meta.FullMethod, meta.Side))
}

// describe is what a panic said, if it was made to be read: other values, such as
// a request, could be anything.
func describe(value any) string {
	const most = 1024
	switch value.(type) {
	case string, error:
		text := fmt.Sprint(value)
		return strings.ToValidUTF8(text[:min(len(text), most)], "")
	default:
		return fmt.Sprintf("a value of type %T", value)
	}
}

// metaOf is what is known of a method outside of a chain.
func metaOf(side interceptors.Side, fullMethod string) *interceptors.CallMeta {
	service, method, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	return &interceptors.CallMeta{
		Side: side, FullMethod: fullMethod, Service: service, Method: method,
		Policy: &policyv1.MethodPolicy{},
	}
}
