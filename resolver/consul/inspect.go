package consul

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Agent is what an agent says of itself.
type Agent struct {
	Reached     bool          `json:"reached"` // whether it answered at all
	Version     string        `json:"version"`
	StandIn     bool          `json:"stand_in"` // it is no Consul, but the consultest package, which says it is of that version
	Node        string        `json:"node"`
	NodeAddress string        `json:"node_address"`
	Datacenter  string        `json:"datacenter"`
	ACLs        bool          `json:"acls"`   // whether it enforces access control
	Leader      string        `json:"leader"` // empty: there is none, so nothing can be written
	Clock       time.Duration `json:"clock"`  // how far its clock is ahead of ours, to about a second
}

// maxOutput has room for why a TLS handshake failed, which stands behind what it was for.
const maxOutput = 500

// Check is one health check of an instance.
type Check struct {
	Name   string         `json:"name"`
	Status catalog.Status `json:"status"`
	Output string         `json:"output"` // one line of what the check said, or why there is maintenance
	Node   bool           `json:"node"`   // it is a check of the node, which all services there share
}

// Entry is an instance as it is registered, callable or not.
type Entry struct {
	catalog.Instance
	Checks []Check
}

// Service is a name that is registered, and the state of its instances.
type Service struct {
	Name     string   `json:"name"`
	Tags     []string `json:"tags"` // of all instances, sorted
	Passing  int      `json:"passing"`
	Warning  int      `json:"warning"`
	Critical int      `json:"critical"`
	Error    string   `json:"error,omitempty"` // why its instances could not be read
}

// maxReads bounds the requests of one listing that are under way at once.
const maxReads = 8

// Services lists what is registered in a datacenter, sorted by name; empty is the
// agent's own. Consul's own service, "consul", is left out. The numbers come by one
// request for each service, of which eight are under way at once. A service that
// cannot be read says so itself, and it is an error if none can.
func (d *Directory) Services(ctx context.Context, datacenter string) ([]Service, error) {
	names, err := d.Names(ctx, datacenter)
	if err != nil {
		return nil, err
	}
	services, errs := make([]Service, len(names)), make([]error, len(names))
	each(len(names), func(i int) {
		var entries []*api.ServiceEntry
		entries, errs[i] = d.health(ctx, catalog.Query{Service: names[i], Datacenter: datacenter})
		services[i] = sum(names[i], entries, errs[i])
	})
	if len(names) > 0 && !slices.Contains(errs, nil) {
		return nil, errs[0]
	}
	return services, context.Cause(ctx)
}

// Names are the services that are registered in a datacenter, as Services lists
// them, by one request.
func (d *Directory) Names(ctx context.Context, datacenter string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	options := (&api.QueryOptions{Datacenter: datacenter, AllowStale: true}).WithContext(ctx)
	tags, meta, err := d.client.Catalog().Services(options)
	if err != nil {
		return nil, d.explainQuery(err, catalog.Query{Datacenter: datacenter})
	}
	if len(tags) == 0 && meta.ResultsFilteredByACLs {
		return nil, d.hidden(catalog.Query{})
	}
	delete(tags, "consul")
	return slices.Sorted(maps.Keys(tags)), nil
}

// each does work for 0 to n-1, some at once.
func each(n int, work func(i int)) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(n, maxReads) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				work(i)
			}
		})
	}
	workers.Wait()
}

func sum(name string, entries []*api.ServiceEntry, err error) Service {
	s := Service{Name: name, Tags: []string{}}
	if err != nil {
		s.Error = err.Error()
	}
	for _, entry := range entries {
		s.Tags = append(s.Tags, entry.Service.Tags...)
		switch status(entry.Checks) {
		case catalog.Passing:
			s.Passing++
		case catalog.Warning:
			s.Warning++
		default:
			s.Critical++
		}
	}
	slices.Sort(s.Tags)
	s.Tags = slices.Compact(s.Tags)
	return s
}

// Entries lists all instances that q asks for, whatever their status, sorted by
// address and id or, with Near, by round trip. Those without an address are among
// them, and so are all that share one.
func (d *Directory) Entries(ctx context.Context, q catalog.Query) ([]Entry, error) {
	found, err := d.health(ctx, q)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(found))
	for _, f := range found {
		entries = append(entries, Entry{instance(f), checks(f.Checks)})
	}
	if q.Near == "" {
		slices.SortFunc(entries, func(a, b Entry) int {
			return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.ID, b.ID))
		})
	}
	return entries, nil
}

func checks(list api.HealthChecks) []Check {
	told := make([]Check, 0, len(list))
	for _, c := range list {
		told = append(told, Check{Name: c.Name, Status: status(api.HealthChecks{c}), Output: inOneLine(said(c), maxOutput), Node: c.ServiceID == ""})
	}
	return told
}

// said is what a check has put out. Consul writes an operator's reason for
// maintenance into the notes.
func said(c *api.HealthCheck) string {
	if c.CheckID == api.NodeMaint || strings.HasPrefix(c.CheckID, api.ServiceMaintPrefix) {
		return cmp.Or(c.Output, c.Notes)
	}
	return c.Output
}

// health reads the instances of one service in every state.
func (d *Directory) health(ctx context.Context, q catalog.Query) ([]*api.ServiceEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	entries, meta, err := d.client.Health().ServiceMultipleTags(q.Service, q.Tags, false, optionsOf(q).WithContext(ctx))
	if err != nil {
		return nil, d.explainQuery(err, q)
	}
	if len(entries) == 0 && meta.ResultsFilteredByACLs {
		return nil, d.hidden(q)
	}
	return slices.DeleteFunc(entries, func(e *api.ServiceEntry) bool { return e == nil || e.Service == nil }), nil
}
