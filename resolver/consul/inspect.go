package consul

import (
	"cmp"
	"context"
	"io"
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
		services[i], errs[i] = d.sum(ctx, catalog.Query{Service: names[i], Datacenter: datacenter})
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
	var names []string
	listed := decoding(ctx, func(body io.Reader) error {
		return eachName(body, func(name string) { names = append(names, name) })
	})
	options := &api.QueryOptions{Datacenter: datacenter, AllowStale: true}
	_, meta, err := d.client.Catalog().Services(options.WithContext(listed))
	if err != nil {
		return nil, d.explainQuery(err, catalog.Query{Datacenter: datacenter})
	}
	if len(names) == 0 && meta.ResultsFilteredByACLs {
		return nil, d.hidden(catalog.Query{})
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return slices.DeleteFunc(names, func(name string) bool { return name == "consul" }), nil
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

// sum counts the instances of one service.
func (d *Directory) sum(ctx context.Context, q catalog.Query) (Service, error) {
	tags, count := map[string]bool{}, map[catalog.Status]int{}
	err := d.health(ctx, q, func(e *entry) {
		for _, tag := range e.Service.Tags {
			tags[tag] = true
		}
		count[status(e.Checks...)]++
	})
	if err != nil {
		return Service{Name: q.Service, Tags: []string{}, Error: err.Error()}, err
	}
	return Service{
		Name: q.Service, Tags: append([]string{}, slices.Sorted(maps.Keys(tags))...),
		Passing: count[catalog.Passing], Warning: count[catalog.Warning], Critical: count[catalog.Critical],
	}, nil
}

// Entries lists all instances that q asks for, whatever their status, sorted by
// address and id or, with Near, by round trip. Those without an address are among
// them, and so are all that share one.
func (d *Directory) Entries(ctx context.Context, q catalog.Query) ([]Entry, error) {
	entries := []Entry{}
	skipped := 0
	err := d.health(ctx, q, func(e *entry) {
		if len(entries) == maxInstances {
			skipped++
			return
		}
		entries = append(entries, Entry{instance(e), checks(e.Checks)})
	})
	if err != nil {
		return nil, err
	}
	if skipped > 0 {
		d.log.Warn("a service has more instances than are listed", "service", q.Service, "left out", skipped)
	}
	if q.Near == "" {
		slices.SortFunc(entries, func(a, b Entry) int {
			return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.ID, b.ID))
		})
	}
	return entries, nil
}

// maxChecks caps those of one instance that are listed.
const maxChecks = 64

func checks(list []*healthCheck) []Check {
	listed := make([]Check, 0, min(len(list), maxChecks))
	for _, c := range list {
		if c != nil && len(listed) < maxChecks {
			listed = append(listed, Check{Name: c.Name, Status: status(c), Output: inOneLine(said(c), maxOutput), Node: c.ServiceID == ""})
		}
	}
	return listed
}

// said is what a check has put out. Consul writes an operator's reason for
// maintenance into the notes.
func said(c *healthCheck) string {
	if c.maintenance() {
		return cmp.Or(c.Output, c.Notes)
	}
	return c.Output
}

// health reads the instances of one service in every state.
func (d *Directory) health(ctx context.Context, q catalog.Query, take func(*entry)) error {
	if err := checkName("Service", q.Service); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	n, meta, err := d.entries(ctx, q, false, optionsOf(q), take)
	switch {
	case err != nil:
		return d.explainQuery(err, q)
	case n == 0 && meta.ResultsFilteredByACLs:
		return d.hidden(q)
	}
	return nil
}
