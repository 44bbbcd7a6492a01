package main

import (
	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newEndpointsCommand() *cobra.Command {
	var o cli.EndpointsOptions
	cmd := &cobra.Command{
		Use:        "endpoints SERVICE",
		SuggestFor: []string{"instances", "list"},
		Short:      "List the instances of a service, follow them, and see how clients pick",
		Long: `List all instances of a service in Consul, callable or not. SERVICE is a
name, or a target as call takes it, such as consul:///catalog?tag=canary.

With --watch, each change is written as a line, until ctrl-C: + an instance came,
- it went, ~ it changed, ! Consul does not answer, or answers again.

With --picks, the clients of the service are asked how they pick: for each instance
its zone, its weight, what is in flight, the latency of a first response, its picks
and their share, the part of the latest calls that it did not answer, and whether
it is in rotation, in slow start, of another zone or ejected, and why. Clients are
looked for in Consul: the instances of all services that publish their admin page
(metrics_address), 64 at most, 2 s for each. A program that is no server is in no
directory: name its admin page by --client. On a port of 127.0.0.1, which is what
servers choose by themselves, only those of this host can be asked.

With -o json there is one object: service, endpoints, a list of address, id, service,
node, datacenter, region, zone, weight, status, callable (whether clients call it),
reason (why not), tags, metadata, checks (name, status, output, node: whether it is
one of the node). With --watch there is one object a line: time, event (added,
removed, changed, unavailable, available), instance (as above), error; what is there
at first is added. With --picks there is one object: service, clients, a list of id,
address (of the admin page), error (why it could not be asked), targets, a list of
directory, service, queries, channels (that share it), panic (so few are usable
that ejected ones are used), ejections (how many, by reason), endpoints, a list of id,
address, region, zone, weight, weight_part (of all in rotation, as it is now),
in_flight, picks, share, latency_ms, failing, slow_start (its progress, 1
without one), state (in_rotation, slow_start, other_zone, ejected, no_connection), reason
(consecutive_failures, success_rate, probe), probe_in_seconds.`,
		Example: `  meshlite endpoints catalog
  meshlite endpoints catalog --watch
  meshlite endpoints catalog --picks
  meshlite endpoints catalog --picks --client 127.0.0.1:9090
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
	f.BoolVar(&o.Picks, "picks", false, "show how clients pick, instead of Consul's list")
	f.StringArrayVar(&o.Tags, "tag", nil, "only instances that carry this `tag`; repeats")
	f.StringArrayVar(&o.Datacenters, "dc", nil, "`datacenter` to ask about, instead of the agent's own; repeats")
	f.StringVar(&o.Near, "near", "", "sort by round trip from this `node`; _agent is the agent's")
	f.StringVar(&o.Filter, "filter", "", "only what matches this `expression` of Consul's")
	f.BoolVar(&o.Warning, "warning", false, "count instances in warning state as callable, as clients with resolver.WithWarningInstances do")
	f.StringVar(&o.Consistency, "consistency", "", "`mode` of reading: stale, consistent or cached")
	modes := cobra.FixedCompletions([]cobra.Completion{"stale", "consistent", "cached"}, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("consistency", modes); err != nil {
		panic(err) // the flag was added above
	}
	addPages(cmd, &o.Clients, &o.Pages)
	return cmd
}
