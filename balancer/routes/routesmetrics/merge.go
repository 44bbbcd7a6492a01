package routesmetrics

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/internal/series"
)

// maxArms bounds the exported arms of all services together. Those of a service beyond its
// share are counted as one, other.
const maxArms = 300

const other = "other"

// armKey identifies an arm in the chain of a service.
type armKey struct{ route, arm string }

// arm merges an arm of all channels to one service.
type arm struct {
	channels                float64
	weight, share, failover float64 // sums of percentages
	usable, known           int     // at the channel with the fewest usable
}

// service merges all channels to one service.
type service struct {
	name   string
	states [len(states)]int // channels
	arms   map[armKey]*arm
}

// merge puts the chains of each service together. Channels by plain discovery are left out.
func merge(all []routes.Stats) map[string]*service {
	services := map[string]*service{}
	for _, stats := range all {
		if stats.Service == "" {
			continue
		}
		name := series.Text(stats.Service)
		s := services[name]
		if s == nil {
			s = &service{name: name, arms: map[armKey]*arm{}}
			services[name] = s
		}
		s.states[slices.Index(states[:], stateOf(stats))]++
		eachArm(stats, func(key armKey, a routes.ArmStats) { s.add(key, a) })
	}
	return services
}

// The states of a chain.
const (
	current = "current"
	stale   = "stale"
	failing = "failing"
)

var states = [...]string{current, stale, failing}

func stateOf(s routes.Stats) string {
	switch {
	case s.Failed:
		return failing
	case s.Error != "":
		return stale
	default:
		return current
	}
}

func eachArm(stats routes.Stats, do func(armKey, routes.ArmStats)) {
	for _, r := range stats.Routes {
		for _, a := range r.Arms {
			do(armKey{series.Text(r.Name), series.Text(a.Name)}, a)
		}
	}
}

func (s *service) add(key armKey, stats routes.ArmStats) {
	a := s.arms[key]
	if a == nil {
		a = &arm{}
		s.arms[key] = a
	}
	a.weight += stats.Weight
	a.share += stats.Share
	for i, t := range stats.Targets {
		if i > 0 {
			a.failover += t.Share
		} else if a.channels == 0 || t.Usable < a.usable {
			a.usable, a.known = t.Usable, t.Known
		}
	}
	a.channels++
}

// limit bounds the exported arms of the services. It is by name which stay, so that it is the same
// the next time.
func limit(services map[string]*service) {
	sizes := map[string]int{}
	for name, s := range services {
		sizes[name] = len(s.arms)
	}
	for name, n := range series.Shares(maxArms, sizes) {
		arms := services[name].arms
		for _, key := range slices.SortedFunc(maps.Keys(arms), compareKeys)[n:] {
			delete(arms, key)
		}
	}
}

func compareKeys(a, b armKey) int {
	return cmp.Or(cmp.Compare(a.route, b.route), cmp.Compare(a.arm, b.arm))
}

// labelsOf are those of an arm: its own, or other.
func (s *service) labelsOf(key armKey) armKey {
	if _, own := s.arms[key]; own {
		return key
	}
	return armKey{other, other}
}
