package main

import (
	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newMirrorCommand() *cobra.Command {
	var o cli.MirrorOptions
	cmd := &cobra.Command{
		Use:        "mirror [SERVICE]",
		SuggestFor: []string{"mirrors", "shadow", "copies"},
		Short:      "Show what became of the copies of calls, and where their answers differ",
		Long: `Show what became of the copies that the mirror rules of policies make of the calls of
SERVICE's own processes, or of all processes in Consul. Processes are found as by cache
stats; name others by --client.

For each method, channel and target: how many of its calls are copied, how the copies have
ended, how many were dropped and why (calls or bytes: the bound is reached), the last error,
and of rules with compare how many answers are the same. Then the fields in which answers
differ, the most frequent first, with the values of the latest pair: what the caller
received, and what the copy did. Long values are cut; those of fields that the contract marks
debug_redact are not shown. (status) is the code of the call.

With -o json there is one object: processes, a list of id, address (of the admin page),
error (why it could not be asked), mirrors, a list of channel, method, target, percent (0: no
longer), in_flight, codes (copies that have ended, by their code), dropped (by the reason),
same, different, differences, last_error. Differences is a list of path, count, caller, copy.`,
		Example: `  meshlite mirror storefront
  meshlite mirror --client 127.0.0.1:9090
  meshlite mirror storefront -o json | jq '.processes[].mirrors[] | {method, target, different, differences}'`,
		Args:              atMostService("mirror"),
		ValidArgsFunction: completeService(&o.Agent, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Service, o.Format = firstOf(args), outputOf(cmd)
			return cli.Mirror(cmd.Context(), o, streamsOf(cmd))
		},
	}
	addProcesses(cmd, &o.ProcessesOptions)
	return cmd
}
