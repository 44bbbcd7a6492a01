package concurrency

import (
	"context"
	"errors"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Option changes what [New] makes.
type Option func(*Limiter)

// WithTrusted declares whose priorities count. It is called once for each call that
// has one, concurrently, and may panic like a handler. Default: nobody's.
func WithTrusted(trusted func(context.Context) bool) Option {
	return func(l *Limiter) { l.trusted = trusted }
}

// WithObserver sets what receives the [Result] of each call of a method that has a limit,
// such as a value of package interceptors/metrics.
func WithObserver(observer interceptors.Observer) Option {
	return func(l *Limiter) { l.observer = observer }
}

func (l *Limiter) check() error {
	var errs []error
	if l.trusted == nil {
		errs = append(errs, errors.New("WithTrusted(nil): leave the option out to trust nobody"))
	}
	if l.observer == nil {
		errs = append(errs, errors.New("WithObserver(nil): leave the option out for no observer"))
	}
	return errors.Join(errs...)
}
