package consul

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// maxInstances caps those of one service that are kept, healthy and unhealthy ones each.
const maxInstances = 20_000

// entries reads the instances of a service one by one. The number of them counts
// those without a service, too, which are not passed to take.
func (d *Directory) entries(ctx context.Context, q catalog.Query, passing bool, options *api.QueryOptions, take func(*entry)) (int, *api.QueryMeta, error) {
	n := 0
	ctx = decoding(ctx, func(body io.Reader) error {
		return eachItem(body, func(e *entry) {
			n++
			if e.Service != nil {
				take(e)
			}
		})
	})
	_, meta, err := d.client.Health().ServiceMultipleTags(q.Service, q.Tags, passing, options.WithContext(ctx))
	return n, meta, err
}

// instances collects what can be dialed, and apart what only its health keeps from being
// called, up to maxInstances of each.
type instances struct {
	query              catalog.Query
	healthy, unhealthy []catalog.Instance
	skipped            int // beyond maxInstances
}

func (c *instances) add(e *entry) {
	i := instance(e)
	if i.Weight == 0 || i.Address == "" {
		return
	}
	to := &c.unhealthy
	switch {
	case i.Status == catalog.Passing, c.query.Warning && i.Status == catalog.Warning:
		to = &c.healthy
	case slices.ContainsFunc(e.Checks, (*healthCheck).maintenance):
		i.Status = catalog.Maintenance
	}
	if len(*to) == maxInstances {
		c.skipped++
		return
	}
	*to = append(*to, i)
}

// tooMany says how many instances are not kept; nil is none.
func (c *instances) tooMany() error {
	if c.skipped == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d are not kept: split the service, or watch a part of it by tag or filter", c.skipped, len(c.healthy)+len(c.unhealthy)+c.skipped)
}

// lists are one instance per address, sorted by it or left in Consul's order where that
// means something. Two registrations of one address are one process, and calling it twice
// as often would be wrong: the healthy one counts.
func (c *instances) lists() (healthy, unhealthy []catalog.Instance) {
	taken := map[string]bool{}
	once := func(list []catalog.Instance) []catalog.Instance {
		if c.query.Near == "" {
			slices.SortFunc(list, func(a, b catalog.Instance) int {
				return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.ID, b.ID))
			})
		}
		return slices.DeleteFunc(list, func(i catalog.Instance) bool {
			twice := taken[i.Address]
			taken[i.Address] = true
			return twice
		})
	}
	return once(c.healthy), once(c.unhealthy)
}

// instance is e, whose service is not nil.
func instance(e *entry) catalog.Instance {
	service := e.Service
	i := catalog.Instance{
		ID:       service.ID,
		Service:  service.Service,
		Metadata: service.Meta,
		Tags:     slices.Sorted(slices.Values(service.Tags)),
		Status:   status(e.Checks...),
		Zone:     service.Meta["zone"], // for agents too old to know a locality
	}
	i.Weight = service.Weights.of(i.Status)
	if l := service.Locality; l != nil {
		i.Region, i.Zone = l.Region, cmp.Or(l.Zone, i.Zone)
	}
	// "If empty, the address of the node is used."
	host := service.Address
	if e.Node != nil {
		host = cmp.Or(host, e.Node.Address)
		i.Node, i.Datacenter = e.Node.Node, e.Node.Datacenter
	}
	if host != "" && service.Port > 0 && service.Port <= 65535 {
		i.Address = net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(service.Port))
	}
	return i
}

// of is the weight in a state, within what Consul takes.
func (w *weights) of(status catalog.Status) uint32 {
	switch {
	case w == nil:
		return 1
	case status == catalog.Warning:
		return uint32(min(max(w.Warning, 0), maxWeight))
	default:
		return uint32(min(max(w.Passing, 0), maxWeight))
	}
}

// status is the worst of checks. Maintenance is critical, and so is a status that
// Consul does not have.
func status(checks ...*healthCheck) catalog.Status {
	worst := catalog.Passing
	for _, c := range checks {
		switch {
		case c.maintenance():
			return catalog.Critical
		case c == nil:
		case c.Status == api.HealthPassing:
		case c.Status == api.HealthWarning:
			worst = catalog.Warning
		default:
			return catalog.Critical
		}
	}
	return worst
}

// maintenance reports whether an operator has ordered it.
func (c *healthCheck) maintenance() bool {
	return c != nil && (c.CheckID == api.NodeMaint || strings.HasPrefix(c.CheckID, api.ServiceMaintPrefix))
}
