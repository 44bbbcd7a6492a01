package balancer

// zone is where a channel or an endpoint is.
type zone struct{ region, name string }

// has reports whether endpoint is in z. A region that one of them does not tell is
// the same.
func (z zone) has(e zone) bool {
	return z.name != "" && z.name == e.name && (z.region == "" || e.region == "" || z.region == e.region)
}

// zone is where an endpoint is. It is unknown of one by another resolver.
func (m *member) zone() zone {
	if i := InstanceOf(m.listed); i != nil {
		return zone{i.Region, i.Zone}
	}
	return zone{}
}

// share multiplies weights so that calls stay in the zone own, as far as its endpoints
// can carry what the callers there send, and what they cannot is spread over the other
// zones by what those have to spare, as in Envoy's zone aware routing. It changes
// nothing where there is nothing to prefer.
func (s Zone) share(own zone, ready []Ready, weights []float64) {
	if s.Disabled || own.name == "" {
		return
	}
	capacity := map[zone]float64{}
	var all, here float64
	for i := range ready {
		at := ready[i].member.zone()
		if own.has(at) {
			at = own
			here += weights[i]
		}
		capacity[at] += weights[i]
		all += weights[i]
	}
	if here == 0 || here == all {
		return
	}
	callers := s.Callers
	if callers == 0 {
		callers = 1 / float64(len(capacity))
	}
	stay := min(here/all/callers, 1)
	elsewhere := (1 - callers) / float64(len(capacity)-1) // the callers of each other zone
	spare := map[zone]float64{}
	var sum float64
	for z, c := range capacity {
		if z != own {
			spare[z] = max(c/all-elsewhere, 0)
			sum += spare[z]
		}
	}
	for i := range ready {
		switch at := ready[i].member.zone(); {
		case own.has(at):
			weights[i] *= stay / here
		case stay == 1 || sum == 0:
			weights[i] = 0
		default:
			weights[i] *= (1 - stay) * spare[at] / sum / capacity[at]
		}
	}
}
