package consul

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// instances turns Consul's entries into what can be dialed, one per address. They
// are sorted by address, or left in Consul's order where that means something. Apart are
// those that only their health keeps from being called.
func instances(entries []*api.ServiceEntry, q catalog.Query) (list, unhealthy []catalog.Instance) {
	entries = slices.DeleteFunc(slices.Clone(entries), func(e *api.ServiceEntry) bool { return e == nil || e.Service == nil })
	if q.Near == "" {
		slices.SortFunc(entries, func(a, b *api.ServiceEntry) int { return cmp.Compare(a.Service.ID, b.Service.ID) })
	}
	// Two registrations of one address are one process: calling it twice as often would be
	// wrong. The healthy one counts.
	taken := map[string]bool{}
	for _, healthy := range []bool{true, false} {
		for _, entry := range entries {
			i := instance(entry)
			callable := i.Status == catalog.Passing || q.Warning && i.Status == catalog.Warning
			if callable != healthy || i.Weight == 0 || i.Address == "" || taken[i.Address] {
				continue
			}
			taken[i.Address] = true
			if healthy {
				list = append(list, i)
				continue
			}
			if entry.Checks.AggregatedStatus() == api.HealthMaint {
				i.Status = catalog.Maintenance
			}
			unhealthy = append(unhealthy, i)
		}
	}
	if q.Near == "" {
		byAddress := func(a, b catalog.Instance) int { return cmp.Compare(a.Address, b.Address) }
		slices.SortFunc(list, byAddress)
		slices.SortFunc(unhealthy, byAddress)
	}
	return list, unhealthy
}

func instance(entry *api.ServiceEntry) catalog.Instance {
	service := entry.Service
	i := catalog.Instance{
		ID:       service.ID,
		Service:  service.Service,
		Metadata: service.Meta,
		Tags:     slices.Sorted(slices.Values(service.Tags)),
		Status:   status(entry.Checks),
		Weight:   uint32(max(service.Weights.Passing, 0)),
		Zone:     service.Meta["zone"], // for agents too old to know a locality
	}
	if l := service.Locality; l != nil {
		i.Region, i.Zone = l.Region, cmp.Or(l.Zone, i.Zone)
	}
	if i.Status == catalog.Warning {
		i.Weight = uint32(max(service.Weights.Warning, 0))
	}
	// "If empty, the address of the node is used."
	host := service.Address
	if entry.Node != nil {
		host = cmp.Or(host, entry.Node.Address)
		i.Node, i.Datacenter = entry.Node.Node, entry.Node.Datacenter
	}
	if host != "" && service.Port > 0 {
		i.Address = net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(service.Port))
	}
	return i
}

func status(checks api.HealthChecks) catalog.Status {
	switch checks.AggregatedStatus() {
	case api.HealthPassing:
		return catalog.Passing
	case api.HealthWarning:
		return catalog.Warning
	default:
		return catalog.Critical
	}
}
