package main

import (
	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newRegistryCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:        "registry",
		SuggestFor: []string{"agent", "consul"},
		Short:      "Run a stand-in for a Consul agent, until ctrl-C",
		Long: `Run a stand-in that speaks Consul's HTTP API (registration, checks, health with
blocking queries, KV), where there is no Consul to try things with. It keeps
everything in memory and stays on loopback, since it requires no token.`,
		Example: `  meshlite registry
  meshlite registry --listen 127.0.0.1:0 -o json`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cli.Registry(cmd.Context(), listen, outputOf(cmd), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8500", "loopback `address`, host:port; port 0 takes a free one")
	return cmd
}
