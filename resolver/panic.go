package resolver

import (
	"slices"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// panicSettings say when instances are called in spite of their health checks.
type panicSettings struct {
	threshold   float64 // the share of all that must be healthy
	maintenance bool    // those in maintenance count and are called as well
}

// defaultThreshold is that of [WithPanicThreshold].
const defaultThreshold = 0.3

// TooFew reports whether channels, as they are by default, call instances that are not
// healthy as well.
func TooFew(healthy, unhealthy int) bool {
	return panicSettings{threshold: defaultThreshold}.tooFew(healthy, unhealthy)
}

func (p panicSettings) tooFew(healthy, unhealthy int) bool {
	return unhealthy > 0 && float64(healthy) < p.threshold*float64(healthy+unhealthy)
}

// WithPanicThreshold sets which share of the instances must be healthy. When fewer are,
// those that the health checks keep out are called, too: the directory's view of health
// is advice, and may be wrong for many at once where an agent or a check is at fault.
// What does not connect or fails is left out as ever. Those in maintenance are not
// called, see [WithMaintenance]. 0 obeys the health checks always. Default: 0.3.
func WithPanicThreshold(share float64) Option {
	return func(s *settings) { s.panic.threshold = share }
}

// WithMaintenance calls, when too few instances are healthy, also those that an operator
// has put into maintenance. Default: they are never called.
func WithMaintenance() Option { return func(s *settings) { s.panic.maintenance = true } }

// advice is what is made of the healthy instances and of the others.
type advice struct {
	list      []catalog.Instance // to call; none where no instance is healthy
	unhealthy []catalog.Instance // to call if no other datacenter has a list
	panicking int                // how many of them are in the list
}

// advise decides whether those of unhealthy that are not in healthy are called.
func (p panicSettings) advise(healthy, unhealthy []catalog.Instance) advice {
	if p.threshold == 0 || len(unhealthy) == 0 {
		return advice{list: healthy}
	}
	present := make(map[string]bool, len(healthy))
	for i := range healthy {
		present[healthy[i].Address] = true
	}
	others := slices.DeleteFunc(slices.Clone(unhealthy), func(i catalog.Instance) bool {
		return present[i.Address] || i.Status == catalog.Maintenance && !p.maintenance
	})
	switch {
	case !p.tooFew(len(healthy), len(others)):
		return advice{list: healthy}
	case len(healthy) == 0:
		return advice{unhealthy: others}
	default:
		return advice{list: merge(healthy, others), panicking: len(others)}
	}
}

// callable is the list, or those that are called where it is empty.
func (k known) callable() []catalog.Instance {
	if len(k.list) == 0 {
		return k.unhealthy
	}
	return k.list
}
