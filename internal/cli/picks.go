package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/internal/nearest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// client is a program that may call the service.
type client struct {
	ID      string           `json:"id,omitempty"`    // of its instance, empty when it was named
	Address string           `json:"address"`         // of its admin page
	Error   string           `json:"error,omitempty"` // why it could not be asked
	Targets []balancer.Picks `json:"targets"`         // by which it calls the service

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
	case len(o.Clients) > 0 && (o.Agent != "" || len(o.Datacenters) > 0):
		return Usagef("--client together with --http-addr or --dc: clients that are named are not looked for in Consul")
	}
	for _, address := range o.Clients {
		if !dialable(address) {
			return Usagef("--client %q: write host:port, such as 127.0.0.1:9090", address)
		}
	}
	return nil
}

// picks shows how the clients of a service pick its instances.
func picks(ctx context.Context, o EndpointsOptions, queries []catalog.Query, streams Streams) error {
	clients, from, err := o.clients(ctx, queries, streams.Err)
	if err != nil {
		return err
	}
	askAll(ctx, clients, queries[0].Service)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	tellUnasked(streams.Err, clients)
	if !slices.ContainsFunc(clients, func(c client) bool { return len(c.Targets) > 0 }) {
		return nobodyCalls(queries[0].Service, from, clients)
	}
	return writePicks(streams.Out, o.Format, queries[0].Service, clients)
}

// clients are those that are named, or else those that Consul knows. From says
// which, for messages.
func (o *EndpointsOptions) clients(ctx context.Context, queries []catalog.Query, stderr io.Writer) (list []client, from string, err error) {
	for _, address := range slices.Compact(slices.Sorted(slices.Values(o.Clients))) {
		list = append(list, client{Address: address})
	}
	if len(list) > 0 {
		return list, "--client", nil
	}
	directory, err := dialAgent(o.Agent)
	if err != nil {
		return nil, "", err
	}
	defer directory.Close()
	list, err = findClients(ctx, directory, queries, stderr)
	return list, directory.Name(), err
}

// nobodyCalls says why there is nothing to show, and what to do.
func nobodyCalls(service, from string, clients []client) error {
	const fix = "a program that is no server is in no directory: let it serve meshlite.DefaultRuntime().Handler(false), and name its address by --client"
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
		return fmt.Errorf("%s knows no instance that tells metrics_address, and so no client of %q: %s", from, service, fix)
	case asked == 0:
		return errors.New("no client could be asked: see above")
	case len(likely) > 0:
		return fmt.Errorf("no client calls %q now, of %d that were asked: is it %s?", service, asked, strings.Join(likely, ", "))
	default:
		return fmt.Errorf("no client calls %q now, of %d that were asked: %s", service, asked, fix)
	}
}
