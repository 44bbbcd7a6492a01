package consul

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Agent is what an agent says of itself.
type Agent struct {
	Version     string        `json:"version"`
	Node        string        `json:"node"`
	NodeAddress string        `json:"node_address"`
	Datacenter  string        `json:"datacenter"`
	ACLs        bool          `json:"acls"`   // whether it enforces access control
	Leader      string        `json:"leader"` // empty: there is none, so nothing can be written
	Clock       time.Duration `json:"clock"`  // how far its clock is ahead of ours, to about a second
}

// Check is one health check of an instance.
type Check struct {
	Name   string         `json:"name"`
	Status catalog.Status `json:"status"`
	Output string         `json:"output"` // one line of what the check said
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
}

// maxReads bounds the requests of one listing that are under way at once.
const maxReads = 8

// Services lists what is registered in a datacenter, sorted by name; empty is the
// agent's own. Consul's own service, "consul", is left out. The numbers come by one
// request for each service, of which eight are under way at once.
func (d *Directory) Services(ctx context.Context, datacenter string) ([]Service, error) {
	names, err := d.names(ctx, datacenter)
	if err != nil {
		return nil, err
	}
	services := make([]Service, len(names))
	err = each(ctx, len(names), func(ctx context.Context, i int) error {
		entries, err := d.health(ctx, catalog.Query{Service: names[i], Datacenter: datacenter})
		services[i] = sum(names[i], entries)
		return err
	})
	if err != nil {
		return nil, err
	}
	return services, nil
}

// names are the services of a datacenter but Consul's own, sorted.
func (d *Directory) names(ctx context.Context, datacenter string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	options := (&api.QueryOptions{Datacenter: datacenter, AllowStale: true}).WithContext(ctx)
	tags, meta, err := d.client.Catalog().Services(options)
	if err != nil {
		return nil, d.explain(err, "service:read")
	}
	if len(tags) == 0 && meta.ResultsFilteredByACLs {
		return nil, fmt.Errorf("%s hid all services: the token needs service:read and node:read", d.Name())
	}
	delete(tags, "consul")
	return slices.Sorted(maps.Keys(tags)), nil
}

// each does work for 0 to n-1, some at once, and ends with the first error.
func each(ctx context.Context, n int, work func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(n, maxReads) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := work(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

func sum(name string, entries []*api.ServiceEntry) Service {
	s := Service{Name: name, Tags: []string{}}
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
		told = append(told, Check{c.Name, status(api.HealthChecks{c}), brief(c.Output)})
	}
	return told
}

// health reads the instances of one service in every state.
func (d *Directory) health(ctx context.Context, q catalog.Query) ([]*api.ServiceEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	options := (&api.QueryOptions{
		Datacenter: q.Datacenter, Near: q.Near, Filter: q.Filter,
		AllowStale: q.Consistency == catalog.Stale, RequireConsistent: q.Consistency == catalog.Consistent, UseCache: q.Consistency == catalog.Cached,
	}).WithContext(ctx)
	entries, meta, err := d.client.Health().ServiceMultipleTags(q.Service, q.Tags, false, options)
	if err != nil {
		return nil, d.explain(err, fmt.Sprintf("service:read on %q and node:read", q.Service))
	}
	if len(entries) == 0 && meta.ResultsFilteredByACLs {
		return nil, fmt.Errorf("%s hid the instances of %q: the token needs service:read on it and node:read", d.Name(), q.Service)
	}
	return slices.DeleteFunc(entries, func(e *api.ServiceEntry) bool { return e == nil || e.Service == nil }), nil
}
