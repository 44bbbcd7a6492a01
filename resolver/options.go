package resolver

import (
	"cmp"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"github.com/meshlite-go/meshlite/balancer/routes"
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
	serviceConfig func(policy string) string // nil is the policy alone
	router        *routes.Router             // nil without routes
	chainSubset   string                     // the only destination; "" is where the chain says
	region, zone  string
	log           *slog.Logger
}

func defaults() settings {
	return settings{
		startTimeout: 5 * time.Second,
		grace:        15 * time.Second,
		maxRemoval:   0.5,
		panic:        panicSettings{threshold: defaultThreshold},
		subset:       100,
		log:          slog.Default(),
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
	case s.chainSubset != "" && s.router == nil:
		return fmt.Errorf("resolver: WithChainSubset %q: only a channel with routes reads chains: add WithRoutes", s.chainSubset)
	case s.snapshots != nil && !reflect.TypeOf(s.snapshots).Comparable():
		return fmt.Errorf("resolver: WithSnapshots: a %T is not comparable: give a pointer", s.snapshots)
	default:
		return nil
	}
}

// WithWarningInstances also calls instances in warning state, with Consul's warning weight.
func WithWarningInstances() Option { return func(s *settings) { s.warning = true } }

// WithStartTimeout bounds how long the first call waits for the directory's first answer
// before it fails with Unavailable. It does not wait when an earlier list serves. Default: 5 s.
func WithStartTimeout(d time.Duration) Option { return func(s *settings) { s.startTimeout = d } }

// WithGrace sets how long instances must be missing before they are removed beyond what
// [WithMaxRemoval] allows, and how long a datacenter must fail before the next one is
// taken. Default: 15 s, more than two heartbeats of a registration with jitter.
func WithGrace(d time.Duration) Option { return func(s *settings) { s.grace = d } }

// WithMaxRemoval sets which share of the instances may be removed at once, in one answer
// or in several within the grace time. The others are held for the grace time; broken
// connections to them are not used meanwhile. 1 believes every answer that is not empty
// and does not follow an outage. Default: 0.5.
func WithMaxRemoval(share float64) Option { return func(s *settings) { s.maxRemoval = share } }

// WithPanicThreshold sets which share of the instances must be healthy. When fewer are,
// those that fail their health checks are called as well: the directory's view of health
// is advice, and can be wrong for many at once when an agent or a check is at fault.
// Outlier ejection and connection state still apply. Instances in maintenance are not
// called, see [WithMaintenance]. 0 always obeys the health checks. Default: 0.3.
func WithPanicThreshold(share float64) Option {
	return func(s *settings) { s.panic.threshold = share }
}

// WithMaintenance also calls instances in maintenance when too few are healthy. Default:
// an operator has taken them out, so they are never called.
func WithMaintenance() Option { return func(s *settings) { s.panic.maintenance = true } }

// WithSubset bounds the endpoints that a channel connects to. Each process takes a subset of
// its own, which changes by at most one endpoint when one instance is added or removed. With a
// policy of this module, members that do not connect are exchanged: a tenth of the subset a
// second at most, or at once while fewer than three can be reached. Policies that map a key
// to the same endpoint in every process, such as grpc:ring_hash, need all: 0. Default: 100.
func WithSubset(endpoints int) Option { return func(s *settings) { s.subset = endpoints } }

// WithSnapshots stores the last good answers, so that the next process can start while the
// directory is down. They are stored by the directory's name and the query. Channels with
// equal snapshots share watches. Default: nothing is stored.
func WithSnapshots(snapshots Snapshots) Option { return func(s *settings) { s.snapshots = snapshots } }

// WithServiceConfig sets how the service config of a target with a policy is written: f
// returns it as JSON, given the name of the policy in service configs. Default, and nil: it
// has the policy alone. Targets without a policy leave the channel's service config as it is.
func WithServiceConfig(f func(policy string) (json string)) Option {
	return func(s *settings) { s.serviceConfig = f }
}

// serviceConfigOf is the service config of a channel with a policy; an empty policy is the
// channel's own.
func (s settings) serviceConfigOf(policy string) string {
	switch {
	case s.serviceConfig != nil:
		return s.serviceConfig(policy)
	case policy == "":
		return DefaultServiceConfig
	default:
		return fmt.Sprintf(`{"loadBalancingConfig": [{%q: {}}]}`, policy)
	}
}

// WithRoutes has a channel go by the discovery chain of its service, where the directory has
// one: router, splitter and resolver entries of Consul. The router is of this channel alone; the
// interceptor of package routing chooses by it, and without that interceptor the picker does.
// The service config of [WithServiceConfig] is asked for with an empty policy, too, for the
// channel's own. Without an entry for the service, discovery is plain. Default: chains are not
// read.
func WithRoutes(router *routes.Router) Option { return func(s *settings) { s.router = router } }

// WithChainSubset has a channel with routes go to one subset of its service alone, whatever routes
// and splitters say. The chain must have the subset as a target, if only with weight 0: calls fail
// without it, with an error that says so. Default, and "": where the chain says.
func WithChainSubset(subset string) Option { return func(s *settings) { s.chainSubset = subset } }

// WithLocality sets where the channel runs, for policies that prefer the own zone. An
// empty zone is unknown.
func WithLocality(region, zone string) Option {
	return func(s *settings) { s.region, s.zone = region, zone }
}

// WithLogger logs outages of the directory and, where a policy of this module is used,
// ejections: of channels that share endpoints by the logger of the first. Default, and nil:
// slog.Default().
func WithLogger(log *slog.Logger) Option {
	return func(s *settings) { s.log = cmp.Or(log, slog.Default()) }
}
