package concurrency

import (
	"errors"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
)

// Option changes what [New] makes.
type Option func(*Limiter)

// WithCallers says whose priorities count: those of callers who are trusted. Default:
// nobody's.
func WithCallers(callers *caller.Callers) Option {
	return func(l *Limiter) { l.callers = callers }
}

// WithObserver has observe called with what becomes of each call of a method that has
// a limit. It must be safe for concurrent use and quick.
func WithObserver(observe func(*interceptors.CallMeta, Result)) Option {
	return func(l *Limiter) { l.observe = observe }
}

func (l *Limiter) check() error {
	if l.observe == nil {
		return errors.New("WithObserver(nil): leave the option out for no observer")
	}
	return nil
}
