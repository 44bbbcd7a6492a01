package main

import (
	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newRoutesCommand() *cobra.Command {
	var o cli.RoutesOptions
	cmd := &cobra.Command{
		Use:        "routes SERVICE",
		SuggestFor: []string{"chain", "splits", "canary"},
		Short:      "Show where the calls to a service go: its routes, splits and failover, and how each arm does",
		Long: `Show the discovery chain that Consul compiles of the config entries of SERVICE
(service-router, service-splitter, service-resolver), and what clients report of each arm:
its share of the attempts, how many there were, which part of the calls has succeeded, and
how many endpoints the client with the fewest can use, of those that Consul lists. Lines
with ! are parts that are not supported, or clients that do not go by the latest chain.

Clients are looked for in Consul: the instances of all services that publish their admin
page, 64 at most, 2 s for each. Name others by --client.

With -o json there is one object: service, datacenter, index, sticky (the metadata key that
decides the arm), refused (a list of texts), routes, a list of name, match, arms, a list of
name, weight (percent), target, failover (a list), live: share (percent), attempts,
succeeded, failed, usable, known; clients, a list of id, address, error; asked (channels
that go by the chain), errors (of those that do not go by the latest).`,
		Example: `  meshlite routes catalog
  meshlite routes catalog --client 127.0.0.1:9090
  meshlite routes catalog -o json | jq '.routes[].arms[] | {name, weight, live}'
  meshlite routes shift catalog v2=10 --apply --guard 5m`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.Usagef("routes takes SERVICE, not %d arguments: `meshlite services` lists what there is", len(args))
			}
			return nil
		},
		ValidArgsFunction: completeService(&o.Agent, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Service, o.Format = args[0], outputOf(cmd)
			return cli.Routes(cmd.Context(), o, streamsOf(cmd))
		},
	}
	addAgent(cmd, &o.Agent)
	f := cmd.Flags()
	f.StringVar(&o.Datacenter, "dc", "", "`datacenter` of the callers, instead of the agent's own")
	addPages(cmd, &o.Clients, &o.Pages)
	noCompletion(cmd, "dc")
	f.BoolVar(&o.NoClients, "no-clients", false, "show the chain alone")
	cmd.AddCommand(newRoutesShiftCommand())
	return cmd
}

func newRoutesShiftCommand() *cobra.Command {
	var o cli.ShiftOptions
	cmd := &cobra.Command{
		Use:   "shift SERVICE ARM=PERCENT...",
		Short: "Change the weights of a service's splitter, and shift back when the new arm fails",
		Long: `Change the weights of the service-splitter of SERVICE in Consul. ARM is a subset, or the
service of a split; one that has no split yet is a subset of the service-resolver. The other
arms share what is left in proportion. Where there is no splitter yet, what is left goes to
the service itself, its default subset. An entry that somebody else has changed since it was
read is not overwritten.

Nothing is written without --apply. The command that undoes the change is printed.

With --guard, the clients of the service are asked every 2 s for that long, and at its end.
When an arm that got more weight and the others have at least 50 calls since, and fewer of its
calls have succeeded than of theirs, by more than chance (three standard deviations) and more
than 1 %, the weights are written back, and the exit code is 1. With fewer calls than that no
arm is judged, which stderr says.

With -o json there is one object: service, before and after, lists of weight, service, subset;
applied, undo (a command), reverted (why; empty if it was not).`,
		Example: `  meshlite routes shift catalog v2=10
  meshlite routes shift catalog v2=10 --apply
  meshlite routes shift catalog v2=50 --apply --guard 5m`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return cli.Usagef("routes shift takes SERVICE ARM=PERCENT..., such as catalog v2=10")
			}
			return nil
		},
		ValidArgsFunction: completeService(&o.Agent, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Service, o.Weights, o.Format = args[0], args[1:], outputOf(cmd)
			return cli.Shift(cmd.Context(), o, streamsOf(cmd))
		},
	}
	addAgent(cmd, &o.Agent)
	f := cmd.Flags()
	f.BoolVar(&o.Apply, "apply", false, "write the weights")
	f.DurationVar(&o.Guard, "guard", 0, "watch clients for this `time`, and shift back when the arm fails")
	addPages(cmd, &o.Clients, &o.Pages)
	return cmd
}
