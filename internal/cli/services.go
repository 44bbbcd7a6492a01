package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

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
		fmt.Fprintln(streams.Err, whyNoServices(ctx, directory))
	}
	for _, s := range services {
		if s.Error != "" {
			fmt.Fprintln(streams.Err, oneLine(s.Error))
		}
	}
	if o.Format == JSON {
		return WriteJSON(streams.Out, map[string][]consul.Service{"services": services})
	}
	return writeServices(streams.Out, services)
}

func whyNoServices(ctx context.Context, directory *consul.Directory) string {
	if err := directory.CheckToken(ctx); err != nil {
		return fmt.Sprintf("%s has no service, perhaps since %v", directory.Name(), err)
	}
	return directory.Name() + " has no service: start one, or if there should be some: may the token read them (service:read, node:read)?"
}

func writeServices(out io.Writer, services []consul.Service) error {
	g := &grid{fields: []field{{head: "NAME", least: 30}, {head: "PASSING"}, {head: "WARNING"}, {head: "CRITICAL"}, {head: "TAGS", drop: 1, least: 20}}}
	for _, s := range services {
		if s.Error != "" {
			g.add(cell(s.Name), "?", "?", "?", "?")
			continue
		}
		g.add(cell(s.Name), strconv.Itoa(s.Passing), strconv.Itoa(s.Warning), strconv.Itoa(s.Critical), cell(strings.Join(s.Tags, ",")))
	}
	t := newTables(out)
	if err := t.write(g); err != nil {
		return err
	}
	return t.close()
}
