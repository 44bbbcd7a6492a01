package consul

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// maxInstances bounds the healthy, and also the unhealthy, instances of one service.
const maxInstances = 20_000

// instances collects the instances that can be called and, apart, those that only their
// health checks exclude, up to maxInstances of each.
type instances struct {
	query              catalog.Query
	healthy, unhealthy []catalog.Instance
	skipped            int // those beyond maxInstances
}

func (c *instances) add(e *entry) {
	i := instance(e, c.query.Scheme)
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

// tooMany returns an error if some instances were skipped.
func (c *instances) tooMany() error {
	if c.skipped == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d instances are left out: split the service, or watch a part of it by tag or filter", c.skipped, len(c.healthy)+len(c.unhealthy)+c.skipped)
}

// lists returns one instance per address, sorted by address or, with Near, in Consul's order.
// Two registrations of one address are one process, which must not get twice the traffic: a
// healthy one takes precedence.
func (c *instances) lists() (healthy, unhealthy []catalog.Instance) {
	taken := map[string]bool{}
	once := func(list []catalog.Instance) []catalog.Instance {
		if c.query.Near == "" {
			slices.SortFunc(list, func(a, b catalog.Instance) int {
				return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.ID, b.ID))
			})
		}
		return slices.DeleteFunc(list, func(i catalog.Instance) bool {
			duplicate := taken[i.Address]
			taken[i.Address] = true
			return duplicate
		})
	}
	return once(c.healthy), once(c.unhealthy)
}

// instance converts e, whose service must not be nil, with the endpoint of the scheme.
func instance(e *entry, scheme string) catalog.Instance {
	service := e.Service
	i := catalog.Instance{
		ID:       service.ID,
		Service:  service.Service,
		Metadata: service.Meta,
		Tags:     slices.Sorted(slices.Values(service.Tags)),
		Status:   status(e.Checks...),
		Zone:     service.Meta["zone"], // for agents without localities
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
	i.Address = cmp.Or(endpoint(service.TaggedAddresses, scheme), i.Address)
	return i
}

// endpoint returns host:port of a URL among tagged addresses, in the format of kratos:
// "grpc": {"Address": "grpc://10.0.0.1:9000"}. A server of HTTP and gRPC there has the port
// of only the first as its own. "" is none.
func endpoint(tagged map[string]taggedAddress, scheme string) string {
	schemes := []string{scheme}
	if scheme == "" {
		schemes = []string{schemeGRPC, schemeGRPCS}
	}
	for _, scheme := range schemes {
		u, err := url.Parse(tagged[scheme].Address)
		if err == nil && u.Scheme == scheme && u.Hostname() != "" && validPort(u.Port()) {
			return u.Host
		}
	}
	return ""
}

func validPort(text string) bool {
	port, err := strconv.ParseUint(text, 10, 16)
	return err == nil && port > 0
}

// of returns the weight for a state, within Consul's limits.
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

// status returns the worst status of checks. Maintenance and an unknown status are
// critical.
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

// maintenance reports whether the check is an operator's maintenance mode.
func (c *healthCheck) maintenance() bool {
	return c != nil && (c.CheckID == api.NodeMaint || strings.HasPrefix(c.CheckID, api.ServiceMaintPrefix))
}
