package routes

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"
)

// Option changes a [Router]. A wrong value is an error of [NewRouter].
type Option func(*settings)

type settings struct {
	threshold     float64
	failbackDelay time.Duration
	log           *slog.Logger
}

// The defaults of the options.
const (
	DefaultFailoverThreshold = 0.5
	DefaultFailbackDelay     = 10 * time.Second
)

// WithFailoverThreshold sets the part of the instances a target is known to have that must be
// usable: above 0 and up to 1. With fewer a part of its calls fails over, in proportion: at half
// of the threshold every second one. So no instance gets more than 1/part times its calls when
// others are lost: give at least the part of their capacity that instances use. Default: 0.5.
func WithFailoverThreshold(part float64) Option { return func(s *settings) { s.threshold = part } }

// WithFailbackDelay sets how long a target must have been better without a break before the
// calls that had failed over come back. Default: 10 s.
func WithFailbackDelay(d time.Duration) Option { return func(s *settings) { s.failbackDelay = d } }

// WithLogger logs arms that become empty, failovers and their ends to log. Default:
// slog.Default().
func WithLogger(log *slog.Logger) Option {
	return func(s *settings) { s.log = cmp.Or(log, slog.Default()) }
}

func defaults() settings {
	return settings{threshold: DefaultFailoverThreshold, failbackDelay: DefaultFailbackDelay, log: slog.Default()}
}

func (s settings) check() error {
	switch {
	case !(s.threshold > 0 && s.threshold <= 1):
		return fmt.Errorf("routes: WithFailoverThreshold %v: write a part above 0, up to 1", s.threshold)
	case s.failbackDelay < 0:
		return fmt.Errorf("routes: WithFailbackDelay %v: write 0 or more", s.failbackDelay)
	}
	return nil
}
