package main

import (
	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newLimitsCommand() *cobra.Command {
	var o cli.LimitsOptions
	cmd := &cobra.Command{
		Use:        "limits [SERVICE]",
		SuggestFor: []string{"ratelimit", "rates"},
		Short:      "Show the limits of processes, and the keys that have used most of them",
		Long: `Show the limits in SERVICE's own processes, or in all processes in Consul: of
their servers and of their channels, once a method with a limit was called. Processes are
found as by cache stats; name others by --client.

First how many calls were admitted, refused, kept waiting, and held back by a channel
because a server has refused such calls before. Then the rate limits, over all processes:
how much the hottest key has used of each \(from three quarters on; beyond 100%
calls wait\), how many calls it has refused, or would have, in shadow, and what the policy
says. Each process counts by itself. Then the hot keys, ten at most of each
limiter: what they have left, in calls, and when they have the whole burst again. Addresses
of peers are shown, of all other keys a hash, which is another one in each process;
(shared) are all callers, or those without a value. Then what bounds the handlers: how full
the fullest process is, how many calls run in all of them, and of an adaptive limit the
latency at half of the limit and the latest, in the fullest process.

A table has 20 rows at most. With --each, every process has tables of its own, with all.

With -o json there is one object: processes, a list of id, address (of the admin page),
error (why it could not be asked), limiters, concurrency. Limiters is a list of name (the
service of a server, or the target of a channel), admitted, refused, shadowed, waited,
refunded, held_back, keys (in the table), forgotten (keys evicted before their limit was full again),
limits, hot_keys. Limits is a list of method, side (server or client), name, limit,
period_seconds, burst, by ("" is all callers together), rules (what else the policy says,
such as "wait, shadow"), refused, shadowed. Hot_keys is a list of method, side, name, key, used
(1 is all), remaining, reset_seconds. Concurrency is a list of name (runtime, or the
service that was given its own), methods, a list of method (other is all those beyond the
first 1024), adaptive, limit, in_flight, admitted, refused, ignored_priorities,
base_latency_ms, sample_latency_ms (0 is unknown).`,
		Example: `  meshlite limits storefront
  meshlite limits storefront --each
  meshlite limits --client 127.0.0.1:9090
  meshlite limits -o json | jq '.processes[] | .id as $id | .limiters[].hot_keys[] | {$id, method, name, key, used}'`,
		Args:              atMostService("limits"),
		ValidArgsFunction: completeService(&o.Agent, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Service, o.Format = firstOf(args), outputOf(cmd)
			return cli.Limits(cmd.Context(), o, streamsOf(cmd))
		},
	}
	addProcesses(cmd, &o.ProcessesOptions)
	cmd.Flags().BoolVar(&o.Each, "each", false, "show each process by itself, with all of its limits")
	return cmd
}
