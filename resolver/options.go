package resolver

import (
	"cmp"
	"fmt"
	"log/slog"
	"reflect"
	"time"
)

// Option changes a [Builder]. A wrong value is an error of [Builder.Build], and so
// of the channel's first call.
type Option func(*settings)

// settings are what channels of one builder may differ in.
type settings struct {
	warning       bool
	startTimeout  time.Duration
	grace         time.Duration
	maxRemoval    float64
	panic         panicSettings
	subset        int
	snapshots     Snapshots
	serviceConfig string
	region, zone  string
	log           *slog.Logger
}

func defaults() settings {
	return settings{
		startTimeout:  5 * time.Second,
		grace:         15 * time.Second,
		maxRemoval:    0.5,
		panic:         panicSettings{threshold: defaultThreshold},
		subset:        100,
		serviceConfig: "{}",
		log:           slog.Default(),
	}
}

// Validate returns the error that [Builder.Build] would return for opts.
func Validate(opts ...Option) error {
	s := defaults()
	for _, o := range opts {
		o(&s)
	}
	return s.check()
}

func (s settings) check() error {
	switch {
	case s.startTimeout <= 0:
		return fmt.Errorf("resolver: WithStartTimeout %v: write more than 0", s.startTimeout)
	case s.grace < 0:
		return fmt.Errorf("resolver: WithGrace %v: write 0 or more", s.grace)
	case !(s.maxRemoval >= 0 && s.maxRemoval <= 1):
		return fmt.Errorf("resolver: WithMaxRemoval %v: write a share from 0 to 1", s.maxRemoval)
	case !(s.panic.threshold >= 0 && s.panic.threshold <= 1):
		return fmt.Errorf("resolver: WithPanicThreshold %v: write a share from 0 to 1", s.panic.threshold)
	case s.subset < 0:
		return fmt.Errorf("resolver: WithSubset %d: write 1 or more, or 0 for all endpoints", s.subset)
	case s.snapshots != nil && !reflect.TypeOf(s.snapshots).Comparable():
		return fmt.Errorf("resolver: WithSnapshots: a %T is not comparable: give a pointer", s.snapshots)
	default:
		return nil
	}
}

// WithWarningInstances also calls instances in warning state, with Consul's warning weight.
func WithWarningInstances() Option { return func(s *settings) { s.warning = true } }

// WithStartTimeout bounds how long the first call waits for an answer of the
// directory before it fails Unavailable, where nothing is known from before. Default: 5 s.
func WithStartTimeout(d time.Duration) Option { return func(s *settings) { s.startTimeout = d } }

// WithGrace sets how long an answer without instances, or without most of them,
// must stand before it is believed, and an outage of one datacenter before the
// next one is taken. Default: 15 s, which is more than two heartbeats of a
// registration, jitter included.
func WithGrace(d time.Duration) Option { return func(s *settings) { s.grace = d } }

// WithMaxRemoval sets which share of the instances may vanish at once, in one
// answer or within the grace time. What is beyond waits for the grace time;
// connections that break are not used meanwhile. 1 believes every answer that has
// an instance and does not follow an outage. Default: 0.5.
func WithMaxRemoval(share float64) Option { return func(s *settings) { s.maxRemoval = share } }

// WithSubset bounds the endpoints that a channel connects to. Of more, each
// process takes a part of its own, which changes by one endpoint at most when one
// instance comes or goes. With a policy of this module, members that do not connect are
// exchanged: a tenth of them a second at most, or at once while fewer than three can be
// reached. Policies that mean the same by a key in every process,
// such as grpc:ring_hash, need them all: 0. Default: 100.
func WithSubset(endpoints int) Option { return func(s *settings) { s.subset = endpoints } }

// WithSnapshots keeps the last good answers over the end of the program, so that
// it starts while the directory is away. One serves who asks the same directory,
// by its name, the same question. Channels with equal snapshots share watches.
// Default: nowhere.
func WithSnapshots(snapshots Snapshots) Option { return func(s *settings) { s.snapshots = snapshots } }

// WithServiceConfig tells the service config of the channel's owner, as JSON. A
// policy in the target replaces the policy in it, and nothing else.
func WithServiceConfig(json string) Option { return func(s *settings) { s.serviceConfig = json } }

// WithLocality tells where the channel runs, for policies that keep calls in their
// zone. An empty zone is not known.
func WithLocality(region, zone string) Option {
	return func(s *settings) { s.region, s.zone = region, zone }
}

// WithLogger hears of outages of the directory and, where a policy of this module is used,
// of ejections: of channels that share endpoints the first one's. Default, and nil:
// slog.Default().
func WithLogger(log *slog.Logger) Option {
	return func(s *settings) { s.log = cmp.Or(log, slog.Default()) }
}
