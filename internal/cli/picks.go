package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/internal/nearest"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// client is a program that may call the service.
type client struct {
	process
	Targets []resolver.Picks `json:"targets"` // by which it calls the service

	calls []string // the services that it calls
}

// checkPicks refuses flags that contradict each other.
func (o *EndpointsOptions) checkPicks() error {
	switch {
	case len(o.Clients) > 0 && !o.Picks:
		return Usagef("--client without --picks: write both")
	case o.Picks && o.Watch:
		return Usagef("--picks together with --watch: leave one out; `watch meshlite endpoints SERVICE --picks` asks again and again")
	case o.Picks && (len(o.Tags) > 0 || o.Near+o.Filter != "" || o.Warning):
		return Usagef("--picks together with --tag, --near, --filter or --warning: clients have asked already, and are shown with what they ask for")
	}
	if !o.Picks && len(o.Pages.SendTokenTo) > 0 {
		return Usagef("--send-token-to without --picks: write both")
	}
	if err := o.Pages.check(o.Clients); err != nil {
		return err
	}
	return checkClients(o.Clients, o.Agent, o.Datacenters)
}

// picks shows how the clients of a service pick its instances.
func picks(ctx context.Context, o EndpointsOptions, queries []catalog.Query, streams Streams) error {
	asking, end, err := o.Pages.asker(ctx)
	if err != nil {
		return err
	}
	defer end()
	processes, from, err := o.processes(ctx, queries, streams.Err)
	if err != nil {
		return err
	}
	clients := make([]client, len(processes))
	askAll(ctx, asking, processes, func(a asker, i int) error {
		all, err := a.picks(ctx, processes[i].Address)
		clients[i].take(all, queries[0].Service)
		return err
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i, p := range processes {
		clients[i].process = p
	}
	writeUnasked(streams.Err, processes)
	if !slices.ContainsFunc(clients, func(c client) bool { return len(c.Targets) > 0 }) {
		if err := o.unknown(ctx, queries[0]); err != nil {
			return err
		}
		return noCallers(queries[0].Service, from, clients)
	}
	return writePicks(streams.Out, o.Format, queries[0].Service, clients)
}

// unknown is the error of a service that is not in Consul, if Consul was queried.
func (o *EndpointsOptions) unknown(ctx context.Context, q catalog.Query) error {
	if len(o.Clients) > 0 {
		return nil
	}
	directory, err := dialAgent(o.Agent)
	if err != nil {
		return err
	}
	defer directory.Close()
	names, err := directory.ServiceNames(ctx, q.Datacenter)
	if err != nil || slices.Contains(names, q.Service) {
		return err
	}
	return whyNone(ctx, directory, q, io.Discard)
}

// take stores the picks of service that a client reports.
func (c *client) take(all []resolver.Picks, service string) {
	for _, p := range all {
		c.calls = append(c.calls, p.Service)
		if p.Service == service {
			c.Targets = append(c.Targets, p)
		}
	}
}

// processes are the named ones, or else those in Consul. From is their source, for
// messages.
func (o *EndpointsOptions) processes(ctx context.Context, queries []catalog.Query, stderr io.Writer) (list []process, from string, err error) {
	if len(o.Clients) > 0 {
		return named(o.Clients), "--client", nil
	}
	directory, err := dialAgent(o.Agent)
	if err != nil {
		return nil, "", err
	}
	defer directory.Close()
	entries, _, err := everything(ctx, directory, queries, stderr)
	return o.Pages.withPages(entries), directory.Name(), err
}

// noServer is the fix for a program that is not in Consul.
const noServer = "a program that is no server is in no directory: let it serve meshlite.DefaultRuntime().Handler(), and name its address by --client"

// noCallers returns why no client calls service, with the fix.
func noCallers(service, from string, clients []client) error {
	var others []string
	asked := 0
	for _, c := range clients {
		others = append(others, c.calls...)
		if c.Error == "" {
			asked++
		}
	}
	likely := nearest.Names(service, slices.Compact(slices.Sorted(slices.Values(others))))
	switch {
	case len(clients) == 0:
		return fmt.Errorf("%s lists no instance that publishes metrics_address, so no client of %q was found: %s", from, service, noServer)
	case asked == 0:
		return errors.New("no client could be asked: see above")
	case len(likely) > 0:
		return fmt.Errorf("none of %[2]d clients calls %[1]q now: is it %[3]s?", service, asked, strings.Join(likely, ", "))
	default:
		return fmt.Errorf("none of %[2]d clients calls %[1]q now: %[3]s", service, asked, noServer)
	}
}
