package main

import (
	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newEndpointsCommand() *cobra.Command {
	var o cli.EndpointsOptions
	cmd := &cobra.Command{
		Use:   "endpoints SERVICE",
		Short: "List the instances of a service, and follow them",
		Long: `List all instances of a service as Consul knows them, callable or not. SERVICE is a
name, or a target as call takes it, such as consul:///catalog?tag=canary.

With --watch, what changes is written line by line until ctrl-C: + an instance came,
- it went, ~ it changed, ! Consul cannot be asked, or can again.

With -o json there is one object: service, endpoints, a list of address, id, service,
node, datacenter, region, zone, weight, status, callable (whether clients call it),
reason (why not), tags, metadata, checks (name, status, output, node: whether it is
one of the node). With --watch there is one object a line: time, event (added,
removed, changed, unavailable, available), instance (as above), error; what is there
at first is added.`,
		Example: `  meshlite endpoints catalog
  meshlite endpoints catalog --watch
  meshlite endpoints 'consul:///catalog?tag=canary' -o json | jq '.endpoints[] | select(.callable) | .address'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.Usagef("endpoints takes SERVICE, not %d arguments: `meshlite services` lists what there is", len(args))
			}
			return nil
		},
		ValidArgsFunction: completeService(&o.Agent, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Service = args[0]
			o.Format = outputOf(cmd)
			return cli.Endpoints(cmd.Context(), o, streamsOf(cmd))
		},
	}
	addAgent(cmd, &o.Agent)
	f := cmd.Flags()
	f.BoolVarP(&o.Watch, "watch", "w", false, "follow what changes, until ctrl-C")
	f.StringArrayVar(&o.Tags, "tag", nil, "only instances that carry this `tag`; repeats")
	f.StringArrayVar(&o.Datacenters, "dc", nil, "`datacenter` to ask about, instead of the agent's own; repeats")
	f.StringVar(&o.Near, "near", "", "sort by round trip from this `node`; _agent is the agent's")
	f.StringVar(&o.Filter, "filter", "", "only what matches this `expression` of Consul's")
	f.BoolVar(&o.Warning, "warning", false, "take instances in warning state for callable, as clients built WithWarning do")
	f.StringVar(&o.Consistency, "consistency", "", "`mode` of reading: stale, consistent or cached")
	modes := cobra.FixedCompletions([]cobra.Completion{"stale", "consistent", "cached"}, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("consistency", modes); err != nil {
		panic(err) // the flag was added above
	}
	return cmd
}
