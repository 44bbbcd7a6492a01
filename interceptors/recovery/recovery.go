package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/guard"
	"github.com/meshlite-go/meshlite/internal/rpc"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

const (
	maxStack  = 64 << 10 // bytes of a stack that are kept: a deep recursion has a long one
	maxLogged = 8 << 10  // bytes of it in the log
)

// Recovery is the concern. It is safe for concurrent use.
type Recovery struct {
	logger    *slog.Logger
	observer  interceptors.Observer
	publisher *interceptors.Publisher // of observer
}

// Panic is the event of a panic, published once, in the goroutine that panicked.
type Panic struct {
	Value any
	Stack []byte // the first 64 KiB
}

// Stage is [interceptors.Recovery].
func (*Panic) Stage() interceptors.Stage { return interceptors.Recovery }

// Result is "panic".
func (*Panic) Result() string { return "panic" }

// Option changes what [New] makes.
type Option func(*Recovery)

// WithLogger sets where panics are logged, as errors: the function and line that
// panicked first, and up to 8 KiB of the stack from there on. Default, and nil: [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return func(r *Recovery) { r.logger = cmp.Or(logger, slog.Default()) }
}

// WithObserver sets what receives a [*Panic], such as a counter. Its own panic is logged
// and goes no further.
func WithObserver(observer interceptors.Observer) Option {
	return func(r *Recovery) { r.observer = observer }
}

// New makes the concern. A nil observer is an error.
func New(opts ...Option) (*Recovery, error) {
	r := &Recovery{logger: slog.Default(), observer: interceptors.ObserverFunc(nil)}
	for _, opt := range opts {
		opt(r)
	}
	if r.observer == nil {
		return nil, errors.New("recovery: WithObserver(nil): leave the option out for no observer")
	}
	r.publisher = interceptors.NewPublisher(r.observer)
	return r, nil
}

// Stage is [interceptors.Recovery].
func (r *Recovery) Stage() interceptors.Stage { return interceptors.Recovery }

// recovered logs a panic, passes it to the observer and returns the peer's error.
func (r *Recovery) recovered(ctx context.Context, meta *interceptors.CallMeta, value any) error {
	stack := make([]byte, maxStack)
	stack = stack[:runtime.Stack(stack, false)]
	if p, ok := value.(*guard.Panic); ok { // of a handler that ran in a goroutine of its own
		value, stack = p.Value, []byte(p.Stack)[:min(len(p.Stack), maxStack)]
	}
	at, from := origin(string(stack))
	r.logger.LogAttrs(ctx, slog.LevelError, "panic",
		slog.String("at", at),
		slog.String("panic", describe(value)),
		slog.String("side", meta.Side.String()),
		slog.String("method", meta.FullMethod),
		slog.String("stack", from[:min(len(from), maxLogged)]))
	interceptors.Note(ctx, meta, func(h *hop.Hop) { h.Panicked = true })
	r.publisher.Publish(ctx, meta, &Panic{value, stack})
	return interceptors.Logged(status.Errorf(codes.Internal, "%s failed: see the log of the %s", meta.FullMethod, meta.Side))
}

// origin is the frame that panicked, as "function (file:line)", and the stack from there
// on: without this package, the runtime and what it raises panics in.
func origin(stack string) (at, from string) {
	from = stack
	// The frames above the first panic are those that recover.
	if i := strings.LastIndex(stack, "\npanic("); i >= 0 {
		from = afterFrame(stack[i+1:])
	}
	// A nil pointer or an index out of range panics in the runtime, or in an atomic that
	// is a field of what is nil.
	for strings.HasPrefix(from, "runtime.") || strings.HasPrefix(from, "sync/atomic.") {
		from = afterFrame(from)
	}
	function, rest, _ := strings.Cut(from, "\n")
	if i := strings.LastIndexByte(function, '('); i > 0 {
		function = function[:i]
	}
	place, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	place, _, _ = strings.Cut(place, " +0x")
	return fmt.Sprintf("%s (%s)", function, place), from
}

// afterFrame cuts the first frame, which is two lines.
func afterFrame(stack string) string {
	_, rest, _ := strings.Cut(stack, "\n")
	_, rest, _ = strings.Cut(rest, "\n")
	return rest
}

// describe returns the text of a panic that is a string or an error: other values, such as
// a request, may hold anything.
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

// metaOf describes a method outside of a chain.
func metaOf(side interceptors.Side, fullMethod string) *interceptors.CallMeta {
	service, method := rpc.SplitMethod(fullMethod)
	return &interceptors.CallMeta{
		Side: side, FullMethod: fullMethod, Service: service, Method: method,
		Policy: &policyv1.MethodPolicy{},
	}
}
