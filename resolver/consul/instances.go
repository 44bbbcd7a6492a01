package consul

import (
	"cmp"
	"net"
	"slices"
	"strconv"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// instances turns Consul's entries into what can be dialed: one per address,
// sorted, so that equal answers are equal slices.
func instances(entries []*api.ServiceEntry, warning bool) []catalog.Instance {
	var list []catalog.Instance
	for _, entry := range entries {
		i := instance(entry)
		callable := i.Status == catalog.Passing || warning && i.Status == catalog.Warning
		if callable && i.Weight > 0 && entry.Service.Port > 0 {
			list = append(list, i)
		}
	}
	slices.SortFunc(list, func(a, b catalog.Instance) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Node, b.Node))
	})
	// Two registrations of one address are one process: calling it twice as
	// often would be wrong.
	return slices.CompactFunc(list, func(a, b catalog.Instance) bool { return a.Address == b.Address })
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
		Zone:     zone(service),
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
	i.Address = net.JoinHostPort(host, strconv.Itoa(service.Port))
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

// zone is Consul's locality, or the metadata key "zone" where there is none.
func zone(service *api.AgentService) string {
	if service.Locality != nil && service.Locality.Zone != "" {
		return service.Locality.Zone
	}
	return service.Meta["zone"]
}
