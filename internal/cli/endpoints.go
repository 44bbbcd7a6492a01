package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/meshlite-go/meshlite/internal/nearest"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// EndpointsOptions are those of [Endpoints].
type EndpointsOptions struct {
	Service     string // its name, or a target
	Agent       string // host:port; empty is the one that the environment names
	Tags        []string
	Datacenters []string // in the order of failover; empty is the agent's own
	Near        string
	Filter      string
	Consistency string
	Warning     bool // clients call instances in warning state
	Watch       bool
	Picks       bool     // show how clients pick, instead of Consul's list
	Clients     []string // host:port of their admin pages, or https://host:port; empty is those in Consul
	Pages       PageAccess
	Format      Format
}

// Endpoints lists the instances of a service, and with Watch follows them until ctx
// ends, which is no error. With Picks it shows how clients see them.
func Endpoints(ctx context.Context, o EndpointsOptions, streams Streams) error {
	queries, err := o.queries()
	if err != nil {
		return err
	}
	if err := o.checkPicks(); err != nil {
		return err
	}
	if o.Picks {
		return picks(ctx, o, queries, streams)
	}
	directory, err := dialAgent(o.Agent)
	if err != nil {
		return err
	}
	defer directory.Close()
	if o.Watch {
		return follow(ctx, directory, queries, o.Format, streams)
	}
	var list []endpoint
	for _, q := range queries {
		some, err := endpoints(ctx, directory, q)
		if err != nil {
			return err
		}
		list = append(list, some...)
	}
	if len(list) == 0 {
		if err := whyNone(ctx, directory, queries[0], streams.Err); err != nil {
			return err
		}
	}
	return writeEndpoints(streams, o.Format, queries[0].Service, list)
}

// queries returns the queries of the options, and reads the agent of a target.
func (o *EndpointsOptions) queries() ([]catalog.Query, error) {
	if strings.Contains(o.Service, "://") {
		if err := o.readTarget(); err != nil {
			return nil, err
		}
	}
	if o.Service == "" || strings.Contains(o.Service, "/") {
		return nil, Usagef("service %q: write the name of a service, or consul:///service", o.Service)
	}
	consistency, err := catalog.ParseConsistency(cmp.Or(o.Consistency, catalog.Stale.String()))
	if err != nil {
		return nil, Usagef("--%w", err)
	}
	datacenters := o.Datacenters
	if len(datacenters) == 0 {
		datacenters = []string{""}
	}
	var queries []catalog.Query
	for _, dc := range datacenters {
		queries = append(queries, catalog.Query{Service: o.Service, Tags: o.Tags, Datacenter: dc, Near: o.Near,
			Filter: o.Filter, Warning: o.Warning, Consistency: consistency})
	}
	return queries, nil
}

// readTarget takes a target apart. A flag beside it could only contradict it.
func (o *EndpointsOptions) readTarget() error {
	t, err := resolver.ParseTarget(o.Service)
	if err != nil {
		return &Error{ExitUsage, err}
	}
	if o.Agent != "" && t.Agent != "" || len(o.Tags)+len(o.Datacenters) > 0 || o.Near+o.Filter+o.Consistency != "" {
		return Usagef("a target together with flags that say the same: write all in the target, as in consul://127.0.0.1:8500/%s?tag=fast&dc=dc2", t.Service)
	}
	o.Service, o.Agent = t.Service, cmp.Or(t.Agent, o.Agent)
	o.Tags, o.Datacenters, o.Near, o.Filter, o.Consistency = t.Tags, t.Datacenters, t.Near, t.Filter, t.Consistency.String()
	return nil
}

// endpoint is an instance as JSON.
type endpoint struct {
	Address    string            `json:"address"` // host:port, empty when it has none
	ID         string            `json:"id"`
	Service    string            `json:"service"`
	Node       string            `json:"node"`
	Datacenter string            `json:"datacenter"`
	Region     string            `json:"region"`
	Zone       string            `json:"zone"`
	Weight     uint32            `json:"weight"`
	Status     catalog.Status    `json:"status"`
	Callable   bool              `json:"callable"`         // whether clients call it
	Reason     string            `json:"reason,omitempty"` // why not
	Tags       []string          `json:"tags"`
	Metadata   map[string]string `json:"metadata"`
	Checks     []consul.Check    `json:"checks"`
}

// endpoints are all instances, in the order of their addresses or, with Near, of
// their distance.
func endpoints(ctx context.Context, directory *consul.Directory, q catalog.Query) ([]endpoint, error) {
	entries, err := directory.Entries(ctx, q)
	if err != nil {
		return nil, err
	}
	taken := map[string]string{} // addresses, and whose they are
	list := make([]endpoint, 0, len(entries))
	for _, e := range entries {
		reason := whyNot(e, q, taken)
		if reason == "" {
			taken[e.Address] = e.ID
		}
		list = append(list, endpoint{
			Address: e.Address, ID: e.ID, Service: e.Service, Node: e.Node, Datacenter: e.Datacenter,
			Region: e.Region, Zone: e.Zone, Weight: e.Weight, Status: e.Status, Callable: reason == "", Reason: reason,
			Tags: append([]string{}, e.Tags...), Metadata: metadataOf(e), Checks: e.Checks,
		})
	}
	return list, nil
}

// whyNot returns why clients do not call an instance, or "". Of instances that share an
// address, they call the first.
func whyNot(e consul.Entry, q catalog.Query, taken map[string]string) string {
	first, known := taken[e.Address]
	switch {
	case e.Status == catalog.Critical, e.Status == catalog.Warning && !q.Warning:
		return e.Status.String()
	case e.Address == "":
		return "no address"
	case e.Weight == 0:
		return "weight 0"
	case known:
		return "same address as " + first
	default:
		return ""
	}
}

// metadataOf is never nil, which would be null as JSON.
func metadataOf(e consul.Entry) map[string]string {
	if e.Metadata == nil {
		return map[string]string{}
	}
	return e.Metadata
}

// whyNone fails if there is no such service, and warns if none of its instances matches.
func whyNone(ctx context.Context, directory *consul.Directory, q catalog.Query, stderr io.Writer) error {
	names, err := directory.ServiceNames(ctx, q.Datacenter)
	if err != nil {
		return err
	}
	if slices.Contains(names, q.Service) {
		fmt.Fprintf(stderr, "%s has %q, but no matching instance: are tags and filter right?\n", directory.Name(), q.Service)
		return nil
	}
	text := fmt.Sprintf("%s has no service %q", directory.Name(), q.Service)
	if likely := nearest.Names(q.Service, names); len(likely) > 0 {
		return fmt.Errorf("%s: is it %s?", text, strings.Join(likely, ", "))
	}
	if err := directory.CheckToken(ctx); err != nil {
		return fmt.Errorf("%s, perhaps since %w", text, err)
	}
	return errors.New(text + ": is the name right, and is it running? `meshlite services` lists what is there")
}

func writeEndpoints(streams Streams, format Format, service string, list []endpoint) error {
	if format == JSON {
		return WriteJSON(streams.Out, struct {
			Service   string     `json:"service"`
			Endpoints []endpoint `json:"endpoints"`
		}{service, append([]endpoint{}, list...)})
	}
	if err := writeTable(streams.Out, list); err != nil {
		return err
	}
	callable := 0
	for _, e := range list {
		if e.Callable {
			callable++
		}
	}
	if callable < len(list) {
		fmt.Fprintf(streams.Err, "clients call %d of %d: `meshlite check %s` says why\n", callable, len(list), oneLine(service))
	}
	return nil
}

func writeTable(out io.Writer, list []endpoint) error {
	g := &grid{fields: []field{{head: "ADDRESS"}, {head: "ID", drop: 1, least: 20, begin: true}, {head: "NODE", drop: 4}, {head: "DC", drop: 6},
		{head: "ZONE", drop: 3}, {head: "WEIGHT", drop: 5}, {head: "STATUS", least: 20}, {head: "TAGS", drop: 2}}}
	for _, e := range list {
		g.add(cell(e.Address), cell(e.ID), cell(e.Node), cell(e.Datacenter), cell(e.Zone), strconv.Itoa(int(e.Weight)), cell(state(e)), tags(e))
	}
	t := newTables(out)
	if err := t.write(g); err != nil {
		return err
	}
	return t.close()
}

// state is the status, with the reason why clients do not call an instance if the status
// is not the reason.
func state(e endpoint) string {
	text := e.Status.String()
	if e.Callable || e.Reason == text {
		return text
	}
	return text + ", not called: " + e.Reason
}
