// Package deadline gives calls the timeout that their policy says. It shortens
// the deadline of the caller and never lengthens it; a call that takes longer
// ends with DEADLINE_EXCEEDED.
//
//	limited, err := deadline.New()
//	chain, err := interceptors.Chain(interceptors.Client, policies, limited)
//
// The timeout is set on the client, from where gRPC carries it to the server,
// unless the rule says timeout_side. Retries and waits share it. A stream is
// bounded as a whole, from its opening to its end, so a method that streams for
// ever must not have a timeout.
//
// On the server the timeout ends the context that the handler is given. A handler
// must heed it: one that is blocked in Recv is woken by the deadline of the
// client, not by this one.
package deadline

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Deadline is the concern. It is safe for concurrent use.
type Deadline struct {
	observer interceptors.Observer
}

// Exceeded is the event of a call that failed when the timeout of its policy was over,
// and not the deadline of its caller.
type Exceeded struct{}

// Stage is [interceptors.Deadline].
func (Exceeded) Stage() interceptors.Stage { return interceptors.Deadline }

// Result is "exceeded".
func (Exceeded) Result() string { return "exceeded" }

// Option changes what [New] makes.
type Option func(*Deadline)

// WithObserver sets what receives an [Exceeded] for each call that took too long, such as
// a counter.
func WithObserver(observer interceptors.Observer) Option {
	return func(d *Deadline) { d.observer = observer }
}

// New makes the concern. A nil observer is an error.
func New(opts ...Option) (*Deadline, error) {
	d := &Deadline{observer: interceptors.ObserverFunc(nil)}
	for _, opt := range opts {
		opt(d)
	}
	if d.observer == nil {
		return nil, errors.New("deadline: WithObserver(nil): leave the option out for no observer")
	}
	return d, nil
}

// Stage is [interceptors.Deadline].
func (d *Deadline) Stage() interceptors.Stage { return interceptors.Deadline }

// timeoutOf is the one that this side sets for a method, or 0. Policies have
// checked the text.
func timeoutOf(meta *interceptors.CallMeta) time.Duration {
	if !meta.Side.On(meta.Policy.GetTimeoutSide(), interceptors.Client) {
		return 0
	}
	timeout, _ := interceptors.ParseDuration(meta.Policy.GetTimeout())
	return timeout
}

// sooner reports whether ctx ends within timeout anyway, so that it needs no
// timer of its own.
func sooner(ctx context.Context, timeout time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) <= timeout
}

// ended gives a call that failed when its time was up a status: an error without
// one, such as that of a database driver, is DEADLINE_EXCEEDED.
func (d *Deadline) ended(ctx context.Context, meta *interceptors.CallMeta, err error) error {
	if err == nil || !expired(ctx) {
		return err
	}
	interceptors.Publish(ctx, meta, d.observer, Exceeded{})
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.DeadlineExceeded, err.Error())
}

func expired(ctx context.Context) bool { return errors.Is(ctx.Err(), context.DeadlineExceeded) }
