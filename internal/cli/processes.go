package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// ProcessesOptions select the processes to ask.
type ProcessesOptions struct {
	Service     string // whose processes; empty is all in Consul
	Agent       string // host:port; empty is the one that the environment names
	Datacenters []string
	Clients     []string // host:port of admin pages, or https://host:port, instead of those in Consul
	Pages       PageAccess
	Format      Format
}

func (o ProcessesOptions) check() error {
	switch {
	case strings.Contains(o.Service, "/"):
		return Usagef("service %q: write the name of a service", o.Service)
	case o.Service != "" && len(o.Clients) > 0:
		return Usagef("service %q together with --client: leave one out", o.Service)
	}
	if err := o.Pages.check(o.Clients); err != nil {
		return err
	}
	return checkClients(o.Clients, o.Agent, o.Datacenters)
}

// replies holds the processes and their answers, by index.
type replies[T any] struct {
	processes []process
	answers   []T
	unread    int // services that could not be read
}

// askProcesses asks all selected processes and reports on stderr which could not be asked.
// It fails if none could.
func askProcesses[T any](ctx context.Context, o ProcessesOptions, stderr io.Writer, ask func(a asker, address string) (T, error)) (all replies[T], err error) {
	asking, end, err := o.Pages.asker(ctx)
	if err != nil {
		return all, err
	}
	defer end()
	if all.processes, all.unread, err = o.processes(ctx, stderr); err != nil {
		return all, err
	}
	all.answers = make([]T, len(all.processes))
	askAll(ctx, asking, all.processes, func(a asker, i int) (err error) {
		all.answers[i], err = ask(a, all.processes[i].Address)
		return err
	})
	if ctx.Err() != nil {
		return all, context.Cause(ctx)
	}
	writeUnasked(stderr, all.processes)
	if failed(all.processes) == len(all.processes) {
		return all, errors.New("no process could be asked: see above")
	}
	return all, nil
}

// failed is how many could not be asked.
func failed(processes []process) int {
	n := 0
	for _, p := range processes {
		if p.Error != "" {
			n++
		}
	}
	return n
}

// processes returns the selected processes, at least one, and the number of services that
// could not be read.
func (o ProcessesOptions) processes(ctx context.Context, stderr io.Writer) (list []process, unread int, err error) {
	if len(o.Clients) > 0 {
		return named(o.Clients), 0, nil
	}
	directory, err := dialAgent(o.Agent)
	if err != nil {
		return nil, 0, err
	}
	defer directory.Close()
	entries, unread, err := o.entries(ctx, directory, stderr)
	if err != nil {
		return nil, 0, err
	}
	if list = o.Pages.withPages(entries); len(list) == 0 {
		return nil, 0, noPages(directory, o.Service)
	}
	return list, unread, nil
}

// noPages returns why there is no process to ask.
func noPages(directory *consul.Directory, service string) error {
	if service != "" {
		return fmt.Errorf("no instance of %q publishes metrics_address: is it a meshlite server, and is its WithMetricsAddress not \"\"?", service)
	}
	return fmt.Errorf("%s lists no instance that publishes metrics_address: %s", directory.Name(), noServer)
}

// entries are the instances of the service, or of all of them.
func (o ProcessesOptions) entries(ctx context.Context, directory *consul.Directory, stderr io.Writer) (all []consul.Entry, unread int, err error) {
	var queries []catalog.Query
	for _, dc := range o.Datacenters {
		queries = append(queries, catalog.Query{Service: o.Service, Datacenter: dc})
	}
	if len(queries) == 0 {
		queries = []catalog.Query{{Service: o.Service}}
	}
	if o.Service == "" {
		return everything(ctx, directory, queries, stderr)
	}
	for _, q := range queries {
		some, err := directory.Entries(ctx, q)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, some...)
	}
	if len(all) == 0 {
		return nil, 0, whyNone(ctx, directory, queries[0], io.Discard)
	}
	return all, 0, nil
}
