package main

import (
	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newRootCommand(streams cli.Streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "meshlite",
		Short: "Find, call and try services of a mesh without sidecars",
		Long: `meshlite is the tool of a service mesh that is imported instead of run: gRPC
services register in Consul, and clients find them and pick an instance for
every call.

Consul is the agent that CONSUL_HTTP_ADDR names, or 127.0.0.1:8500; the other
CONSUL_* variables mean what they mean to Consul's own command line.

Exit codes:
  0    all went well; also an orderly stop of what runs until ctrl-C
  1    something failed: a call, a server, Consul
  2    the command line is wrong, the request that it gives included
  130  interrupted by SIGINT or SIGTERM before it was done`,
		Example: `  meshlite demo
  meshlite dev
  meshlite call --plaintext consul:///catalog sweetshop.catalog.v1.CatalogService/GetSweet -d '{"id": "lemon-sherbet"}'`,
		Version:       cli.ReadBuild().Version,
		SilenceErrors: true, // run writes them, in one line
		SilenceUsage:  true,
		Args:          noCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	// First of all: cobra's completion command takes them when it is made.
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.Err)
	addOutput(root)
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(newCacheCommand(), newCallCommand(), newCertsCommand(), newChaosCommand(), newCheckCommand(), newDemoCommand(), newDevCommand(), newEndpointsCommand(), newExplainCommand(), newGatewayCommand(),
		newIntentionsCommand(), newLimitsCommand(), newMirrorCommand(), newNginxCommand(), newProbeCommand(), newProtoCommand(), newRegistryCommand(), newRoutesCommand(), newServicesCommand(), newTopCommand(), newVersionCommand())
	refuseUnknownTopics(root)
	return root
}

// addOutput gives every command -o.
func addOutput(root *cobra.Command) {
	format := cli.Text
	root.PersistentFlags().VarP(&format, "output", "o", "how to write what comes out: text or json")
	formats := []cobra.Completion{
		cobra.CompletionWithDesc(string(cli.Text), "for people"),
		cobra.CompletionWithDesc(string(cli.JSON), "for programs"),
	}
	if err := root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag was added above
	}
}

// outputOf is the value of -o.
func outputOf(cmd *cobra.Command) cli.Format {
	return cli.Format(cmd.Flag("output").Value.String())
}

// streamsOf are where cmd reads and writes.
func streamsOf(cmd *cobra.Command) cli.Streams {
	return cli.Streams{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}
}
