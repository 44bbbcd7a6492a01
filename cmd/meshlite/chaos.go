package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/chaos"
	"github.com/meshlite-go/meshlite/internal/cli"
)

func newChaosCommand() *cobra.Command {
	o := chaos.Options{}
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "Break a mesh again and again, and measure what its callers notice",
		Long: `Start a real Consul, three catalogs of the sweet shop and a client that calls them in
an open loop, without retries and with a deadline of 1 s; then make one fault after
the other. After each fault the mesh must become whole: all instances alive, passing
in Consul, and called. At the end everything is stopped.

The faults, and what is waited for after each:
` + faultList() + `
Those in which packets are dropped take network namespaces of their own, for which Linux
wants root; without they are SKIPPED, and the table says so.

Exits with 0 only if every aim was reached. Whatever the fault, no connection may be
made twice to an instance that it does not concern.

The table goes to stdout, the progress to stderr. With -o json, one object takes the
place of the table. Consul is the one on PATH, else the one that ` + "`make consul`" + ` has built.`,
		Example: `  meshlite chaos
  meshlite chaos --short
  meshlite chaos --only consul-stalled,health-flaps
  meshlite chaos -o json 2>/dev/null | jq '.faults[] | {name, failed}'`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Check(); err != nil {
				return cli.Usagef("--only: %w", err)
			}
			return runChaos(cmd, o)
		},
	}
	cmd.Flags().BoolVar(&o.Short, "short", false, "fewer and shorter faults: about a minute")
	cmd.Flags().StringSliceVar(&o.Only, "only", nil, "make these faults, `name`s separated by commas")
	if err := cmd.RegisterFlagCompletionFunc("only", completeFault); err != nil {
		panic(err) // the flag was added above
	}
	return cmd
}

func faultList() string {
	var list strings.Builder
	for _, f := range chaos.Faults() {
		fmt.Fprintf(&list, "  %s\n      %s;\n      %s\n", f.Name, f.Does, f.Healed)
	}
	return list.String()
}

func completeFault(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var names []cobra.Completion
	for _, f := range chaos.Faults() {
		names = append(names, cobra.CompletionWithDesc(f.Name, f.Does))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// runChaos fails when an aim was missed.
func runChaos(cmd *cobra.Command, o chaos.Options) error {
	ctx, done := beforeStarting(cmd.Context())
	defer done()
	o.Progress = cmd.ErrOrStderr()
	result, err := chaos.Run(ctx, o)
	if err != nil {
		return err
	}
	if err := writeChaos(cmd, result); err != nil {
		return err
	}
	if missed := result.Missed(); len(missed) > 0 {
		return errors.New("aims were missed: " + strings.Join(missed, "; "))
	}
	return nil
}

func writeChaos(cmd *cobra.Command, result *chaos.Result) error {
	if outputOf(cmd) == cli.JSON {
		return cli.WriteJSON(cmd.OutOrStdout(), result)
	}
	return result.WriteTable(cmd.OutOrStdout())
}
