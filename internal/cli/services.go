package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/meshlite-go/meshlite/resolver/consul"
)

// ServicesOptions are those of [Services].
type ServicesOptions struct {
	Agent      string // host:port; empty is the one that the environment names
	Datacenter string // empty is the agent's own
	Format     Format
}

// Services lists what is registered.
func Services(ctx context.Context, o ServicesOptions, streams Streams) error {
	directory, err := dialAgent(o.Agent)
	if err != nil {
		return err
	}
	defer directory.Close()
	services, err := directory.Services(ctx, o.Datacenter)
	if err != nil {
		return err
	}
	if len(services) == 0 {
		fmt.Fprintf(streams.Err, "%s knows no service: start one, or if there should be some: may the token read them (service:read, node:read)?\n", directory.Name())
	}
	if o.Format == JSON {
		return WriteJSON(streams.Out, map[string][]consul.Service{"services": services})
	}
	return writeServices(streams.Out, services)
}

func writeServices(out io.Writer, services []consul.Service) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tPASSING\tWARNING\tCRITICAL\tTAGS")
	for _, s := range services {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\n", cell(s.Name), s.Passing, s.Warning, s.Critical, cell(strings.Join(s.Tags, ",")))
	}
	return w.Flush()
}
