package main

import (
	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the versions of meshlite, Go and gRPC",
		Example: `  meshlite version
  meshlite version -o json`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cli.Version(outputOf(cmd), cmd.OutOrStdout())
		},
	}
}
